"""Imports run one way, and pure modules can be imported where Django cannot.

`jobs -> repositories -> keys`, `jobs -> keys`; apps take small helpers from `backupsite`, which reaches them only
through its urls and settings. Every import of every module counts, also one inside a function, and that one needs a
reason.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("backupsite", "keys", "repositories", "jobs")
HELPERS = (
    "backupsite.audit",
    "backupsite.models",
    "backupsite.responses",
    "backupsite.roles",
    "backupsite.templatetags",
)

# The layer of a module (the first that matches), and what of ours it may import.
LAYERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"keys\.crypto\w*", ("keys.crypto*",)),
    (r"keys\.kms(\..*)?", ("keys.crypto*", "keys.kms")),
    (r"repositories\.engine(\..*)?", ("repositories.engine", "keys.crypto*", "keys.kms")),
    (r"jobs\.(schedule|retention|planning|key_health)", ()),
    (r"jobs\.consequences", ("jobs.planning",)),
    (r"keys\.models(\..*)?", (*HELPERS, "keys.models")),
    (r"repositories\.models", (*HELPERS, "keys.models")),
    (r"jobs\.models(\..*)?", (*HELPERS, "keys.models", "repositories.models", "jobs.models")),
    (r"keys(\..*)?", (*HELPERS, "keys")),
    (r"repositories(\..*)?", (*HELPERS, "keys", "repositories")),
    (r"jobs(\..*)?", (*HELPERS, "keys", "repositories", "jobs")),
    (r"backupsite(\..*)?", ("backupsite",)),
    (r"manage", ("backupsite",)),
)

# What else a module may import, and why.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("jobs.supervising", "backupsite.launch"): "a session's process dies with its worker, like every child of the site",
    ("jobs.clusters", "backupsite.processes"): "the clusters that the watchdog restarts are processes of the site",
    ("jobs.management.commands.watchdog", "backupsite.processes"): "it is one of them, and names itself to the others",
}

# Imports inside functions: why they can't stand at the top.
LATE: dict[tuple[str, str], str] = {
    ("manage", "django"): "the environment is checked first, so that a malformed setting is one clear line",
    ("repositories.engine.__main__", "repositories.engine.cli"): "numpy reads its settings when it is imported",
    ("keys.kms.connecting", "keys.kms.kmip"): "its packages are an extra that need not be installed",
    ("backupsite.apps", "backupsite.audit"): "models can be imported only when all apps are ready",
    ("backupsite.web", "backupsite.wsgi"): "each worker of gunicorn loads the application for itself",
    ("backupsite.management.commands.cluster", "django_q.cluster"): "django-q2 reads its name when it is imported",
}

# Where work comes in. Nothing else imports these: a rule that two of them need has its home below.
ENTRANCES = re.compile(r"\w+\.(views\w*|\w+_views|urls\w*|tasks|management\..*)")

RULES_OF_JOBS = r"jobs\.(schedule|retention|planning|consequences|key_health)"
WITHOUT_DJANGO = (
    rf"keys\.crypto\w*|keys\.kms(\..*)?|repositories\.engine(\..*)?|{RULES_OF_JOBS}|jobs\.(process\w*|protocol)"
)
CLOCKS_AND_DICE = {"now", "today", "utcnow", "time_ns", "monotonic", "perf_counter", "urandom", "random", "uuid4"}


@cache
def modules() -> dict[str, ast.Module]:
    """Return every module of the product by name, parsed; migrations apart, which speak of the past."""
    files = [ROOT / "manage.py", *(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))]
    return {name_of(file): ast.parse(file.read_text()) for file in sorted(files) if "migrations" not in file.parts}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST) -> Iterator[str]:
    """Return the dotted names of all imports below a node, with the name that is taken from a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_below(name: str, allowed: str) -> bool:
    """Tell whether a dotted name is the allowed one or inside it; `x.y*` allows every module that begins so."""
    if allowed.endswith("*"):
        return name.startswith(allowed[:-1])
    return name == allowed or name.startswith(allowed + ".")


def is_ours(name: str) -> bool:
    return any(is_below(name, package) for package in (*PACKAGES, "manage"))


def wrong_imports(module: str, tree: ast.AST) -> list[str]:
    allowed = next(allowed for pattern, allowed in LAYERS if re.fullmatch(pattern, module))
    excepted = tuple(name for importer, name in EXCEPTIONS if importer == module)
    ours = (name for name in imported(tree) if is_ours(name))
    return [name for name in ours if not any(is_below(name, other) for other in (*allowed, *excepted))]


def late_imports(tree: ast.AST) -> set[str]:
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {name for function in functions for name in imported(function)}


def wrong_entrances(module: str, tree: ast.AST) -> list[str]:
    if ENTRANCES.fullmatch(module):
        return []
    return [name for name in imported(tree) if is_ours(name) and ENTRANCES.fullmatch(_module_in(name))]


def _module_in(name: str) -> str:
    """Return the module of a dotted name that may end in something taken from it."""
    return name if name in modules() else name.rpartition(".")[0]


def apps_named(tree: ast.AST) -> list[str]:
    """Return strings that are names of modules of the apps: an import by another name."""
    strings = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return [text for text in strings if re.fullmatch(r"(keys|repositories|jobs)(\.\w+)+", text)]


@pytest.mark.parametrize("module", modules())
def test_imports_run_one_way(module):
    assert wrong_imports(module, modules()[module]) == []


@pytest.mark.parametrize("module", modules())
def test_entrances_are_not_imported_from_below(module):
    assert wrong_entrances(module, modules()[module]) == []


def test_every_import_in_a_function_has_its_reason():
    late = {(module, name) for module, tree in modules().items() for name in late_imports(tree)}
    unexplained = [(m, n) for m, n in late if not any(m == module and is_below(n, name) for module, name in LATE)]
    stale = [(m, n) for m, n in LATE if not any(m == module and is_below(name, n) for module, name in late)]
    assert unexplained == []
    assert stale == []


def test_every_exception_is_used():
    used = {(module, name) for module, tree in modules().items() for name in imported(tree)}
    assert [(m, n) for m, n in EXCEPTIONS if not any(m == module and is_below(name, n) for module, name in used)] == []


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith("backupsite")])
def test_the_site_names_apps_only_in_urls_and_settings(module):
    if module not in ("backupsite.urls", "backupsite.settings"):
        assert apps_named(modules()[module]) == []


@pytest.mark.parametrize("module", [name for name in modules() if re.fullmatch(RULES_OF_JOBS, name)])
def test_the_rules_of_jobs_take_time_and_chance_as_arguments(module):
    used = {node.attr for node in ast.walk(modules()[module]) if isinstance(node, ast.Attribute)}
    assert used & CLOCKS_AND_DICE == set()


@pytest.mark.parametrize("package", ["keys", "repositories"])
def test_the_packages_that_recover_needs_have_an_empty_init(package):
    assert (ROOT / package / "__init__.py").read_text() == ""


BLOCKED = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("django", "django_q", "psycopg", "allauth"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
for name in sys.argv[1:]:
    importlib.import_module(name)
print(len([name for name in sys.modules if name in sys.argv]))
"""


def import_blocked(*names: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCKED, *names]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env={})


def test_pure_modules_can_be_imported_without_django():
    names = [name for name in modules() if re.fullmatch(WITHOUT_DJANGO, name) and not name.endswith("__main__")]
    done = import_blocked(*names)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == len(names) > 20


def test_the_block_blocks():
    assert "django is blocked" in import_blocked("jobs.models").stderr


WRONG = [
    ("keys.models", "from repositories.models import Chain"),
    ("keys.views", "import jobs.models"),
    ("repositories.catalogue", "from jobs import planning"),
    ("repositories.views", "def view():\n    from jobs.models import Job"),
    ("repositories.engine.reader", "from keys.models import PasswordRecord"),
    ("repositories.engine.reader", "from repositories.models import Chain"),
    ("repositories.engine.reader", "from keys import sealing"),
    ("keys.crypto_slots", "from keys.sealing import ring"),
    ("jobs.planning", "from jobs.models import Job"),
    ("jobs.retention", "from jobs import models"),
    ("jobs.models", "from jobs.due import schedule_of"),
    ("jobs.sessions", "from backupsite.config import load"),
    ("jobs.sessions", "from backupsite import settings"),
    ("backupsite.views", "if True:\n    from jobs.models import Job"),
]


@pytest.mark.parametrize(("module", "source"), WRONG)
def test_a_wrong_arrow_is_found(module, source):
    assert wrong_imports(module, ast.parse(source))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jobs.sessions", "from jobs.job_views import job_list"),
        ("jobs.due", "from jobs import tasks"),
        ("keys.passwords", "import keys.urls"),
    ],
)
def test_an_entrance_used_from_below_is_found(module, source):
    assert wrong_entrances(module, ast.parse(source))


def test_an_import_by_name_is_found():
    assert apps_named(ast.parse("import_module('jobs.ticking')")) == ["jobs.ticking"]
