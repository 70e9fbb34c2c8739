"""The site's settings for tests: the product's own, on a temporary state folder and the run's Postgres.

The first process of a run makes the folder and names it in the environment; workers inherit the name. Variables of the
developer's own console are taken away before the settings read them.
"""

import os
import tempfile
from pathlib import Path

from backupsite.config import socket_folder

RUN_FOLDER = "BACKUPSITE_TEST_RUN_FOLDER"
KEPT = (RUN_FOLDER, "BACKUPSITE_CHROMIUM")

for name in list(os.environ):
    if name == "DATABASE_URL" or (name.startswith("BACKUPSITE_") and name not in KEPT):
        del os.environ[name]

if RUN_FOLDER not in os.environ:
    os.environ[RUN_FOLDER] = tempfile.mkdtemp(prefix="backupsite-tests-")
run_folder = Path(os.environ[RUN_FOLDER])
if os.geteuid() == 0:
    run_folder.chmod(0o711)  # the unprivileged user of Postgres passes through
home = run_folder / os.environ.get("PYTEST_XDIST_WORKER", "controller")
os.environ["BACKUPSITE_HOME"] = str(home)
os.environ["DATABASE_URL"] = f"postgresql://backupsite@/backupsite?host={socket_folder(run_folder)}"

from backupsite.settings import *  # noqa: E402, F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# Static files are linked by their plain names: a manifest exists only where they were collected.
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
(home / "static").mkdir(parents=True, exist_ok=True)
