"""Where a restore may write: below the proxy's restore roots, for administrators anywhere, never into a repository or
the state folder.

Asked when a restore is requested, again by its session, and live by the form. That nothing leaves the chosen folder
while it is written is the engine's rule.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from repositories.models import Repository


class TargetRefused(Exception):
    """Nothing may be restored into this folder.

    `code` says why: not-absolute, outside-roots, in-repository or in-state-folder.
    """

    def __init__(self, code: str, message: str, **params: str) -> None:
        super().__init__(message)
        self.code = code
        self.params = params


@dataclass(frozen=True)
class TargetRules:
    """The places that decide, as real paths."""

    anywhere: bool
    roots: tuple[Path, ...]
    repositories: tuple[Path, ...]
    state_folder: Path

    def kept_out(self) -> tuple[Path, ...]:
        """What a restore never writes into, wherever it begins: repositories, and the state folder but for its restore
        roots.
        """
        return (*self.repositories, self.state_folder)


def target_rules(*, anywhere: bool) -> TargetRules:
    paths = Repository.objects.values_list("path", flat=True)
    return TargetRules(
        anywhere=anywhere,
        roots=tuple(Path(os.path.realpath(root)) for root in settings.BACKUPSITE.restore_roots),
        repositories=tuple(Path(os.path.realpath(path)) for path in paths),
        state_folder=Path(os.path.realpath(settings.BACKUPSITE.home)),
    )


def check_target(into: str, rules: TargetRules) -> Path:
    """Return the real path of the folder. Raises TargetRefused."""
    if not into.startswith("/") or "\0" in into:
        raise TargetRefused(
            "not-absolute", f"{into!r} is not an absolute path: write one that begins with /.", path=into
        )
    real = Path(os.path.realpath(into))
    for repository in rules.repositories:
        if is_within(real, repository):
            message = f"{into} lies in the repository {repository}: nothing is restored into a repository."
            raise TargetRefused("in-repository", message, path=into, repository=str(repository))
    below_root = any(is_within(real, root) for root in rules.roots)
    if not below_root and is_within(real, rules.state_folder):
        message = f"{into} lies in the console's own state folder: choose another folder."
        raise TargetRefused("in-state-folder", message, path=into)
    if not below_root and not rules.anywhere:
        roots = ", ".join(str(root) for root in rules.roots)
        message = f"{into} is outside the restore roots ({roots}): choose a folder below one, or ask an administrator."
        raise TargetRefused("outside-roots", message, path=into, roots=roots)
    return real


def root_of(real: Path, rules: TargetRules) -> Path | None:
    """Return the restore root that the folder lies below, if there is one: no symbolic link is followed between the
    two.
    """
    return next((root for root in rules.roots if is_within(real, root)), None)


def is_within(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents
