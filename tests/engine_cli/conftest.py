"""A small real tree, and the command line as people use it: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engine_cli import desk

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """What a command left: its exit code, its result object, and what it said."""

    code: int
    result: dict[str, Any]
    stdout: str
    stderr: str


class Engine:
    """`python -m repositories.engine` with --json, from a folder that is not the project's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.passwords = 0

    def command(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "repositories.engine", *(os.fspath(argument) for argument in arguments)]

    def environment(self) -> dict[str, str]:
        return {"PATH": os.defpath, "PYTHONPATH": str(PROJECT), "LC_ALL": "C.UTF-8"}

    def __call__(self, *arguments: str | Path, as_json: bool = True) -> Ended:
        command = self.command(*arguments, *(["--json"] if as_json else []))
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        stdout, stderr = done.stdout.decode(), done.stderr.decode()
        lines = stdout.splitlines()
        result = json.loads(lines[-1]) if as_json and lines else {}
        assert not as_json or len(lines) <= 1, stdout
        assert "Traceback" not in stderr, stderr
        return Ended(done.returncode, result, stdout, stderr)

    def password_file(self, content: str | bytes) -> Path:
        self.passwords += 1
        path = self.folder / f"password-{self.passwords}"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path


def restored_at(into: Path, tree: Path) -> Path:
    """Sources stand at their absolute path without the leading slash."""
    return into / tree.relative_to("/")


def files_of(repository: Path) -> list[Path]:
    """The backup files by chain and sequence."""
    return sorted((path for path in repository.rglob("*") if path.is_file()), key=lambda path: int(path.name))


def refused(ended: Ended, code: str) -> None:
    assert ended.code == 2, ended.stderr
    assert ended.result["error"]["code"] == code
    assert ended.stderr.startswith("error: ") or "\nerror: " in ended.stderr


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    return Engine(folder)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one of everything that an ordinary user can make."""
    root = tmp_path / "source"
    (root / "docs" / "deep").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o750)
    (root / "docs" / "a.txt").write_bytes(b"first\n")
    (root / "docs" / "deep" / "b.bin").write_bytes(os.urandom(300_000))
    (root / "docs" / "script").write_bytes(b"#!/bin/sh\n")
    (root / "docs" / "script").chmod(0o755)
    (root / "nothing").write_bytes(b"")
    os.link(root / "docs" / "a.txt", root / "docs" / "same as a")
    (root / "link").symlink_to("docs/a.txt")
    (root / "dangling").symlink_to("/nowhere/at all")
    os.mkfifo(root / "fifo")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff not utf-8\nand a line")).write_bytes(b"odd name")
    with (root / "sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"end")
    return root


Facts = dict[bytes, tuple[Any, ...]]


@pytest.fixture
def facts_of() -> Callable[[Path], Facts]:
    """What must be equal of two trees: type, mode, owner, time to the nanosecond, content, target; and who shares a
    file.
    """
    return read_facts


def read_facts(root: Path) -> Facts:
    found: Facts = {}
    top = os.fsencode(root)
    first_names: dict[int, bytes] = {}
    for folder, folders, files in os.walk(top):
        folders.sort()
        for name in (b"", *sorted(folders), *sorted(files)):
            path = os.path.join(folder, name) if name else folder
            relative = os.path.relpath(path, top)
            stat = os.lstat(path)
            content: object = None
            if os.path.islink(path):
                content = os.readlink(path)
            elif os.path.isfile(path):
                content = (Path(os.fsdecode(path)).read_bytes(), first_names.setdefault(stat.st_ino, relative))
            found[relative] = (oct(stat.st_mode), stat.st_uid, stat.st_gid, stat.st_mtime_ns, content)
    return found


@pytest.fixture(autouse=True)
def close_desks() -> Iterator[None]:
    yield
    while desk.DESKS:
        desk.DESKS.pop().target.close()
