"""The mark of a file that has its name already and is not complete.

A small file whose whole content is verified is written under its own name at once: a temporary name and a rename cost
as much as everything else that is done for it. From its creation until everything about it is right it has a mode that
no other file has: sticky and writable for its owner, readable by nobody. The mode that it shall have is set last. So
what a killed restore leaves behind is known by its mode: nobody takes it for a file, and the next restore replaces it.

Which files are written so is decided in `repositories.engine.restore_groups`; all others get a temporary name.
"""

from __future__ import annotations

import os
import stat

UNFINISHED_MODE = stat.S_ISVTX | stat.S_IWUSR


def is_unfinished(folder: int, name: bytes) -> bool:
    """Whether a name in an open folder is a file with the mark. Anything that cannot be looked at is none."""
    try:
        return has_mark(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except OSError:
        return False


def has_mark(facts: os.stat_result) -> bool:
    return facts.st_mode == stat.S_IFREG | UNFINISHED_MODE
