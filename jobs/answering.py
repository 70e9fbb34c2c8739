"""Answering quick questions, on the proxy: what is in a folder, whether sources, a repository or a target can be used.

One answer changes something: `require_encryption` sets or takes away the marker of a repository.

Every answer is a plain dict; each problem in it has path, code, message and severity (error: refuse; note: say it).
Paths go in and out as text with undecodable bytes kept (surrogateescape), or as base64 where a field's name ends in
_b64.

Codes of problems:

    sources     not-absolute, missing, unreadable, in-repository, in-state-folder (errors)
                repository-inside, state-folder-inside, virtual-inside, virtual (notes)
    repository  not-absolute, not-a-folder, unwritable, no-room, in-state-folder (errors)
                will-be-created, not-empty (notes)
    target      not-absolute, outside-roots, in-repository, in-state-folder, not-a-folder, unwritable (errors)

Refusals of list_folder: not-absolute, missing, not-a-folder, unreadable; of require_encryption: repository-away,
repository-unwritable.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings

from jobs import answering_chains
from jobs.models import Question, QuestionState
from jobs.questions import Refused, question_of, store_answer
from jobs.targets import TargetRefused, check_target, is_within, target_rules
from repositories.engine.encrypted_only import mark, unmark
from repositories.engine.errors import RepositoryUnwritable, text

Answer = dict[str, Any]
LISTED_MOST = 5_000
VIRTUAL = ("/proc", "/sys", "/dev")
RESERVE_BYTES = 1024**3
RESERVE_SHARE = 0.02


def answer(question_id: int) -> None:
    """Answer one question; one that was taken back, or answered already, is left alone."""
    question = Question.objects.filter(pk=question_id, state=QuestionState.ASKED).first()
    if question is None:
        return
    kind, params = question_of(question)
    try:
        found = ANSWERS[kind](**params)
    except Refused as refused:
        refusal = {"code": refused.code, "params": refused.params, "message": str(refused)}
        store_answer(question, QuestionState.FAILED, refusal)
    except Exception as error:
        message = f"The proxy could not answer: {type(error).__name__}. Its log says more."
        store_answer(question, QuestionState.FAILED, {"code": "internal-error", "params": {}, "message": message})
        raise
    else:
        store_answer(question, QuestionState.ANSWERED, found)


def list_folder(path_b64: str) -> Answer:
    """Return the folders in a folder, by name; symbolic links are not followed, and listed are at most 5,000."""
    path = base64.b64decode(path_b64)
    if not path.startswith(b"/") or b"\0" in path:
        raise Refused("not-absolute", {}, f"{text(path)} is not an absolute path.")
    try:
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError as error:
        raise _cannot_list(path, error) from error
    listed = names[:LISTED_MOST]
    folders = [{"name_b64": base64.b64encode(name).decode(), "name": text(name)} for name in listed]
    return {"path_b64": path_b64, "path": text(path), "folders": folders, "left_out": len(names) - len(listed)}


def check_sources(paths: list[str], repository_paths: list[str] | None = None) -> Answer:
    """Say what is wrong with sources, also together with the repositories: no backup reads any of them."""
    return {"problems": [problem for path in paths for problem in _source_problems(path, repository_paths or [])]}


def check_repository(path: str) -> Answer:
    """Say whether a folder can be a repository, and how much room there is (where it would be made)."""
    if not path.startswith("/") or "\0" in path:
        return {"problems": [_error(path, "not-absolute", "Write an absolute path, one that begins with /.")]}
    existing = _nearest_existing(Path(path))
    free_bytes, total_bytes = room(existing)
    problems = [*_repository_problems(Path(path), existing), *_room_problems(path, free_bytes, total_bytes)]
    return {"problems": problems, "free_bytes": free_bytes, "total_bytes": total_bytes}


def check_restore_target(path: str, by_admin: bool) -> Answer:
    """Say whether this user may restore there, and whether it can be written."""
    try:
        real = check_target(path, target_rules(anywhere=by_admin))
    except TargetRefused as refused:
        return {"problems": [_error(path, refused.code, str(refused))]}
    existing = _nearest_existing(real)
    if not existing.is_dir():
        return {"problems": [_error(path, "not-a-folder", f"{existing} is a file: choose a folder.")]}
    if not os.access(existing, os.W_OK | os.X_OK):
        return {"problems": [_error(path, "unwritable", f"{existing} cannot be written by the proxy's user.")]}
    free_bytes, total_bytes = room(existing)
    return {"problems": [], "free_bytes": free_bytes, "total_bytes": total_bytes}


def require_encryption(path: str, required: bool, is_new: bool) -> Answer:
    """Set the marker of a repository that takes encrypted files only, or take it away.

    The folder of a new one, without chains, is made; any other that is not there may be a disk that is not mounted.
    """
    root = Path(path)
    if not root.is_dir() and not is_new:
        raise Refused("repository-away", {}, f"The repository {path} is not there: mount its disk, then save again.")
    try:
        if required:
            root.mkdir(mode=0o755, parents=True, exist_ok=True)
            mark(root)
        elif root.is_dir():
            unmark(root)
    except (RepositoryUnwritable, OSError) as error:
        raise Refused("repository-unwritable", {}, str(error)) from error
    return {"marked": required}


def room(path: Path) -> tuple[int, int]:
    """Return free and total bytes of the file system that `path` is on, for an ordinary user."""
    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize


def _source_problems(path: str, repository_paths: list[str]) -> list[dict[str, str]]:
    raw = os.fsencode(path)
    if not raw.startswith(b"/") or b"\0" in raw:
        return [_error(path, "not-absolute", f"{text(raw)} is not an absolute path: begin it with /.")]
    unreadable = _unreadable(path, raw)
    if unreadable is not None:
        return [unreadable]
    return _placement_problems(path, Path(os.path.realpath(path)), repository_paths)


def _unreadable(path: str, raw: bytes) -> dict[str, str] | None:
    try:
        facts = os.lstat(raw)
        if stat.S_ISDIR(facts.st_mode):
            os.scandir(raw).close()
    except FileNotFoundError:
        return _error(path, "missing", f"{text(raw)} does not exist on the proxy.")
    except OSError as error:
        return _error(path, "unreadable", f"{text(raw)} cannot be read: {error.strerror}.")
    if not os.access(raw, os.R_OK, follow_symlinks=not stat.S_ISLNK(facts.st_mode)):
        return _error(path, "unreadable", f"{text(raw)} cannot be read: permission denied.")
    return None


def _placement_problems(path: str, source: Path, repository_paths: list[str]) -> list[dict[str, str]]:
    problems = []
    for repository in sorted({Path(os.path.realpath(repository_path)) for repository_path in repository_paths}):
        if is_within(source, repository):
            message = f"{path} lies in the repository {repository}: a repository cannot hold a backup of itself."
            return [_error(path, "in-repository", message)]
        if is_within(repository, source):
            problems.append(_note(path, "repository-inside", f"The repository {repository} is left out of {path}."))
    home = Path(os.path.realpath(settings.BACKUPSITE.home))
    if is_within(source, home):
        message = f"{path} lies in the console's state folder, which holds its keys and its own database: leave it out."
        return [_error(path, "in-state-folder", message)]
    if is_within(home, source):
        message = f"The console's state folder {home} is left out: it holds keys and its own database."
        problems.append(_note(path, "state-folder-inside", message))
    return problems + _virtual_problems(path, source)


def _virtual_problems(path: str, source: Path) -> list[dict[str, str]]:
    own = next((folder for folder in VIRTUAL if is_within(source, Path(folder))), None)
    if own is not None:
        message = f"{path} is read because it is named, but {own} belongs to the kernel: most of it is no files."
        return [_note(path, "virtual", message)]
    inside = [folder for folder in VIRTUAL if is_within(Path(folder), source)]
    if not inside:
        return []
    message = f"{', '.join(inside)} are left out of {path}: they hold no files of yours."
    return [_note(path, "virtual-inside", message)]


def _repository_problems(path: Path, existing: Path) -> list[dict[str, str]]:
    real = Path(os.path.realpath(path))
    home = Path(os.path.realpath(settings.BACKUPSITE.home))
    shown = str(path)
    if is_within(real, home) and not any(is_within(real, home / name) for name in ("repositories", "repository")):
        return [_error(shown, "in-state-folder", f"{path} lies in the console's state folder: choose another place.")]
    if not existing.is_dir():
        return [_error(shown, "not-a-folder", f"{existing} is a file: choose a folder.")]
    if not os.access(existing, os.W_OK | os.X_OK):
        return [_error(shown, "unwritable", f"{existing} cannot be written by the proxy's user.")]
    if existing != path:
        return [_note(shown, "will-be-created", f"{path} does not exist yet; it is created with the first backup.")]
    if any(existing.iterdir()):
        return [_note(shown, "not-empty", f"{path} is not empty; files that are not ours are left alone.")]
    return []


def _room_problems(path: str, free_bytes: int, total_bytes: int) -> list[dict[str, str]]:
    needed_bytes = max(RESERVE_BYTES, int(total_bytes * RESERVE_SHARE))
    if free_bytes > needed_bytes:
        return []
    message = (
        f"Only {free_bytes // 1024**2} MiB are free; a session stops before less than {needed_bytes // 1024**2} MiB."
    )
    return [_error(path, "no-room", message)]


def _nearest_existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _cannot_list(path: bytes, error: OSError) -> Refused:
    if isinstance(error, FileNotFoundError):
        return Refused("missing", {}, f"{text(path)} does not exist on the proxy.")
    if isinstance(error, NotADirectoryError):
        return Refused("not-a-folder", {}, f"{text(path)} is not a folder.")
    return Refused("unreadable", {}, f"{text(path)} cannot be read: {error.strerror}.")


def _error(path: str, code: str, message: str) -> dict[str, str]:
    return {"path": path, "code": code, "message": message, "severity": "error"}


def _note(path: str, code: str, message: str) -> dict[str, str]:
    return {"path": path, "code": code, "message": message, "severity": "note"}


ANSWERS: dict[str, Callable[..., Answer]] = {
    "list_folder": list_folder,
    "check_sources": check_sources,
    "check_repository": check_repository,
    "check_target": check_restore_target,
    "require_encryption": require_encryption,
    **answering_chains.ANSWERS,
}
