"""What stands between a running database and a running console: tables, keys, static files, the first administrator.

Run by one process at a time (an advisory lock), as often as one likes; the second time it finds nothing to do.
"""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection
from django.db.migrations.executor import MigrationExecutor

from backupsite import first_admin

AGAIN_SECONDS = 0.1
LOCK_NUMBER = 0x6261636B757073  # "backups"


class PrepareError(Exception):
    """The console cannot start. str() is one line."""


def wait_for_database(timeout_seconds: float) -> None:
    """Return when the database answers, or the time is over: what comes next then says why."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            connection.ensure_connection()
        except OperationalError:
            time.sleep(AGAIN_SECONDS)
        else:
            return


def prepare(admin_password: str | None, origin: str) -> str | None:
    """Bring tables, keys and static files up to date; return the first administrator's link if one is needed."""
    try:
        with advisory_lock():
            migrate()
            call_command("instance_keys")
            link = make_first_administrator(admin_password, origin)
        collect_static(Path(settings.STATIC_ROOT))
    except OperationalError as error:
        raise PrepareError(f"The database does not answer: {' '.join(str(error).split())}") from error
    except (CommandError, ImproperlyConfigured) as error:
        raise PrepareError(str(error)) from error
    finally:
        connection.close()
    return link


@contextlib.contextmanager
def advisory_lock() -> Iterator[None]:
    """Hold the lock of all starts on this database; it ends with the connection, too."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [LOCK_NUMBER])
    try:
        yield
    finally:
        with contextlib.suppress(OperationalError), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK_NUMBER])


def migrate() -> None:
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        call_command("migrate", interactive=False, verbosity=0)
    call_command("createcachetable", verbosity=0)


def make_first_administrator(password: str | None, origin: str) -> str | None:
    if password is not None:
        try:
            first_admin.create_unattended(password)
        except ValidationError as error:
            raise PrepareError(f"BACKUPSITE_ADMIN_PASSWORD is refused: {' '.join(error.messages)}") from None
    return first_admin.new_link(origin)


def collect_static(target: Path) -> None:
    """Collect and compress the static files when one of them changed since the last time."""
    stamp = target / ".collected-from"
    wanted = digest_of_static_files()
    if stamp.is_file() and stamp.read_text(encoding="ascii") == wanted:
        return
    call_command("collectstatic", interactive=False, clear=target.exists(), verbosity=0)
    stamp.write_text(wanted, encoding="ascii")


def digest_of_static_files() -> str:
    """Return a digest of names, sizes and times: what tells that collecting again would give the same."""
    digest = hashlib.sha256()
    for finder in get_finders():
        for name, storage in finder.list([]):
            found = Path(storage.path(name)).stat()
            digest.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
