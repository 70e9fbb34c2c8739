"""The promise that a backup outlives the console: two copied folders, one requirements file, no Django, no project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine_cli.conftest import PROJECT, Engine, read_facts

MODULES_OF_THE_CONSOLE = ("django", "psycopg", "django_q", "gunicorn")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a recovery needs, and an environment made from its requirements with every hash checked."""
    folder = tmp_path_factory.mktemp("alone")
    for package in ("keys", "repositories"):
        shutil.copytree(PROJECT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "requirements-recover.txt", folder)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    pip = [folder / "venv/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "-r", folder / "requirements-recover.txt"], check=True)
    return folder


@pytest.mark.timeout(600)
def test_a_backup_is_recovered_without_the_console(alone: Path, engine: Engine, tree: Path, tmp_path: Path) -> None:
    old, new = engine.password_file("old"), engine.password_file("\u00e4lter \n")
    repository = tmp_path / "repository"
    assert engine("backup", tree, "--to", repository, "--password-file", old).code == 0
    (tree / "docs" / "later").write_text("later")
    assert engine("backup", tree, "--to", repository, "--password-file", new, "--previous-password-file", old).code == 0

    elsewhere = tmp_path / "somewhere else"
    elsewhere.mkdir()
    python = alone / "venv/bin/python"
    environment = {"PATH": os.defpath, "PYTHONPATH": str(alone), "LC_ALL": "C.UTF-8"}
    missing = "; ".join(f"assert not find_spec({name!r})" for name in MODULES_OF_THE_CONSOLE)
    code = f"from importlib.util import find_spec; {missing}; import repositories; print(repositories.__file__)"
    found = subprocess.run([python, "-c", code], cwd=elsewhere, env=environment, check=True, capture_output=True)
    assert Path(found.stdout.decode().strip()).is_relative_to(alone)

    command = [python, "-m", "repositories.engine", "recover", repository, "--into", "back", "--password-file", new]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert read_facts(elsewhere / "back" / tree.relative_to("/")) == read_facts(tree)

    sheet, public = tmp_path / "sheet", tmp_path / "public"
    assert engine("recovery-key", "new", "--sheet", sheet, "--public", public).code == 0
    assert engine("rewrap", repository, "--password-file", new, "--new-recovery-key", public).code == 0
    command = [python, "-m", "repositories.engine", "verify", repository, "--recovery-key", sheet]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_the_written_instructions_name_what_exists(engine: Engine) -> None:
    """They are followed under pressure: each option that it names is one that the command line has."""
    pages = ("recover.md", "recovery-keys.md")
    written = "".join((PROJECT / "docs" / page).read_text(encoding="utf-8") for page in pages)
    commands = (
        "backup",
        "list",
        "verify",
        "inspect",
        "recover",
        "synthesize",
        "merge",
        "rewrap",
        "recovery-key",
        "prove",
    )
    helps = "".join(engine(command, "--help", as_json=False).stdout for command in commands)
    lines = [line.split("repositories.engine", 1)[1] for line in written.splitlines() if "-m repositories" in line]
    assert len(lines) >= 5
    options = {word for line in lines for word in line.split() if word.startswith("--")}
    assert {"--into", "--password-file", "--point"} <= options
    assert not [option for option in options if option not in helps]
