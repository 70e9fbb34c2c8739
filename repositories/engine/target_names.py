"""Which names a restored tree may have: paths taken apart and checked, free names, and renaming without replacing.

What happens when a name is taken is decided in `repositories.engine.target`.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Container

from repositories.engine.errors import text

NAME_BYTES_MAX = 255
RENAME_NOREPLACE = 1


class Blocked(Exception):
    """One entry cannot be restored; the rest can. `code` says why in one word, str() in a sentence."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def components(path: bytes) -> list[bytes]:
    """Take a path of a backup apart. Raises Blocked for one that could leave the target or names no entry."""
    parts = path.split(b"/")
    for part in parts:
        if part in (b"", b".", b"..") or b"\0" in part:
            raise Blocked(
                "hostile-path", f"The backup names the path {text(path)}, which no honest backup holds; left out."
            )
    return parts


def free_name(name: bytes, taken: Container[bytes] = (), attempt: int = 1) -> bytes:
    """`report.pdf` becomes `report (restored).pdf`, then `report (restored 2).pdf`; never longer than a name may be."""
    stem, dot, suffix = name.rpartition(b".")
    stem, suffix = (stem, dot + suffix) if stem else (name, b"")
    while True:
        mark = b" (restored)" if attempt == 1 else b" (restored %d)" % attempt
        room = NAME_BYTES_MAX - len(mark) - len(suffix)
        candidate = stem[:room] + mark + suffix if room > 0 else name[: NAME_BYTES_MAX - len(mark)] + mark
        if candidate not in taken:
            return candidate
        attempt += 1


def _load_renameat2() -> ctypes._FuncPointer | None:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
        function.restype = ctypes.c_int
    return function


_renameat2 = _load_renameat2()


def rename_without_replacing(folder: int, old: bytes, new: bytes) -> bool:
    """Rename inside one folder; False when the new name is taken. Where the kernel cannot do it in one step, a link
    does.
    """
    if _renameat2 is not None:
        if _renameat2(folder, old, folder, new, RENAME_NOREPLACE) == 0:
            return True
        code = ctypes.get_errno()
        if code == errno.EEXIST:
            return False
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code), new)
    return _rename_by_looking(folder, old, new)


def _rename_by_looking(folder: int, old: bytes, new: bytes) -> bool:
    try:
        os.stat(new, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)
        return True
    return False
