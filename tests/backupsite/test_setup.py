"""What `make run`, `make kmip` and `make test` install: each what it needs, and none takes away what another has."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN, KMIP, DEVELOPMENT = "requirements.txt", "requirements-kmip.txt", "requirements-dev.txt"

# Stands for .venv/bin/python: says what pip is asked to install.
RECORDER = """#!/bin/bash
case "$*" in *"pip install"*) echo "installed $*" ;; esac
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    for name in (RUN, KMIP, DEVELOPMENT):
        (tmp_path / name).write_text(f"# {name}\n")
    recorder = tmp_path / ".venv" / "bin" / "python"
    recorder.parent.mkdir(parents=True)
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    return tmp_path


def setup(tree: Path, requirements: str) -> str:
    """Return what was installed, or nothing."""
    done = subprocess.run(
        [tree / ".ci" / "setup", sys.executable, requirements], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.rpartition("installed ")[2].rpartition(" ")[2].strip()


def test_what_is_there_is_not_installed_again(tree: Path) -> None:
    assert [setup(tree, RUN), setup(tree, RUN)] == [RUN, ""]


def test_a_smaller_set_never_takes_away_what_a_larger_one_brought(tree: Path) -> None:
    assert [setup(tree, name) for name in (RUN, KMIP, RUN, DEVELOPMENT, KMIP, RUN)] == [
        RUN,
        KMIP,
        "",
        DEVELOPMENT,
        "",
        "",
    ]


def test_a_new_release_brings_the_set_that_is_there_up_to_date(tree: Path) -> None:
    setup(tree, KMIP)
    (tree / KMIP).write_text("# a new pin\n")
    assert [setup(tree, RUN), setup(tree, RUN)] == [KMIP, ""]
