"""Everything about a restored entry but its content: owner, extended attributes and ACLs, mode, times; and what of
it could not be set.

Set in the order that the kernel wants: the owner first (a change of owner clears setuid and file capabilities),
then extended attributes (an ordinary user may set them only while the file is writable), then the mode, then the
times. What cannot be set is a loss: counted by code with the first path of each, so that a restore of a million
files by an ordinary user ends with one warning and not with a million.

Where an entry stands and how it gets there is decided in `repositories.engine.target`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from repositories.engine.entries import Entry

SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID
ROOT_ONLY_NAMES = (b"security.", b"trusted.")

LOSS_SENTENCES = {
    "owner-not-set": "The owner could not be set; recover as root to get owners back.",
    "special-bits-dropped": "The setuid and setgid bits were dropped, because the owner could not be set.",
    "mode-not-set": "The mode could not be set; the file system of the target does not allow it.",
    "times-not-set": "The times could not be set; the file system of the target does not allow it.",
    "attributes-not-set": "Extended attributes or ACLs could not be set: the target has none, or root is needed.",
}


@dataclass
class Losses:
    """What was not restored as it was, by code: how often, and the first path."""

    counts: dict[str, int] = field(default_factory=dict)
    first_paths: dict[str, bytes] = field(default_factory=dict)

    def add(self, code: str, path: bytes, count: int = 1) -> None:
        self.counts[code] = self.counts.get(code, 0) + count
        self.first_paths.setdefault(code, path)


class Fidelity:
    """Sets what an entry says on a descriptor, or on a name in an open folder where there can be no descriptor."""

    def __init__(self, losses: Losses) -> None:
        self.losses = losses
        self.is_root = os.geteuid() == 0
        self._user_id = os.geteuid()
        self._group_ids = frozenset((os.getegid(), *os.getgroups()))

    def set_on_descriptor(self, descriptor: int, entry: Entry, *, owned: bool = False) -> None:
        """Set all of it on an open file or folder; `owned` where owner and group are known to be right already."""
        owned = owned or self._owner(entry, lambda uid, gid: os.fchown(descriptor, uid, gid))
        if entry.xattrs:
            self._attributes(entry, lambda name, value: os.setxattr(descriptor, name, value))
        try:
            os.fchmod(descriptor, self._mode(entry, owned))
        except OSError:
            self.losses.add("mode-not-set", entry.path)
        if entry.ancestor:
            return  # the backup knows its mode and owner, but its times tell of children that are not in the backup
        try:
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        except (OSError, OverflowError):
            self.losses.add("times-not-set", entry.path)

    def set_on_link(self, folder: int, name: bytes, entry: Entry) -> None:
        """Set owner and times of a symbolic link itself, never of what it points to; a link has no mode of its own."""
        self._owner(entry, lambda uid, gid: os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False))
        self._attributes_by_name(folder, name, entry)
        self._times_by_name(folder, name, entry)

    def set_on_node(self, folder: int, name: bytes, entry: Entry) -> None:
        """Set owner, mode and times of a FIFO or a device, which must not be opened.

        The name is a fresh temporary one in `folder`. There is no chmod that does not follow symbolic links on
        older kernels, so the node is held by an O_PATH descriptor and reached through /proc, which is the same node
        whatever happens to the name.
        """
        owned = self._owner(entry, lambda uid, gid: os.chown(name, uid, gid, dir_fd=folder, follow_symlinks=False))
        descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", self._mode(entry, owned))
        except OSError:
            self.losses.add("mode-not-set", entry.path)
        finally:
            os.close(descriptor)
        self._attributes_by_name(folder, name, entry)
        self._times_by_name(folder, name, entry)

    def _owner(self, entry: Entry, change: Callable[[int, int], None]) -> bool:
        """Return whether owner and group are now what the entry says."""
        if not self.is_root and (entry.uid != self._user_id or entry.gid not in self._group_ids):
            self.losses.add("owner-not-set", entry.path)
            return False
        try:
            change(entry.uid, entry.gid)
        except (OSError, OverflowError):
            self.losses.add("owner-not-set", entry.path)
            return False
        return True

    def _mode(self, entry: Entry, owned: bool) -> int:
        mode = stat.S_IMODE(entry.mode)
        if not owned and mode & SPECIAL_BITS:
            self.losses.add("special-bits-dropped", entry.path)
            mode &= ~SPECIAL_BITS
        return mode

    def _attributes_by_name(self, folder: int, name: bytes, entry: Entry) -> None:
        """There is no call for a name in an open folder; by way of /proc a link of this name is not followed."""
        if entry.xattrs:
            path = b"/proc/self/fd/%d/%s" % (folder, name)
            self._attributes(entry, lambda key, value: os.setxattr(path, key, value, follow_symlinks=False))

    def _attributes(self, entry: Entry, change: Callable[[bytes, bytes], None]) -> None:
        """Set each extended attribute; one loss an entry, however many of its attributes failed."""
        failed = False
        for name, value in entry.xattrs:
            if name.startswith(ROOT_ONLY_NAMES) and not self.is_root:
                failed = True
                continue
            try:
                change(name, value)
            except OSError:
                failed = True
        if failed:
            self.losses.add("attributes-not-set", entry.path)

    def _times_by_name(self, folder: int, name: bytes, entry: Entry) -> None:
        try:
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)
        except (OSError, OverflowError):
            self.losses.add("times-not-set", entry.path)
