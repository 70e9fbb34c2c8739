"""Rotation of the instance key: what follows what, so that a kill at any moment leaves a console that opens everything.

    ring          what comes next
    [A*]          a new key is added, which opens and does not seal yet
    [A*, B]       the new key becomes the active one; but if B seals something already, it is no new key: somebody
                  put it back, for an older dump, and everything is renewed under A
    [A, B*]       everything is renewed under B, then A is removed
    [B*]          done

(* is the active key; the ring lists its keys in the order in which they were added, so that it says where a killed
rotation stood.) Every process looks at the ring whenever it seals or opens (`keys.sealing`), so from the second
step on everything new is sealed under B, except by somebody who took the ring just before and writes his row just
after. The old key is therefore removed only when the time to settle has passed since B became active, every
transaction has ended that had begun to write before, and a whole pass after that has found nothing under A. A row that
does not open is left and named, and then A stays: it may be the key that somebody needs to mend it.

The rows are renewed without waiting for the disk; the event in the audit trail before the last step waits, and with it
all that was written before. One rotation runs at a time. Where the ring is in the environment this module writes
nothing: it says what to put there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum

from django.db import connection

from backupsite import audit
from backupsite.models import Severity
from keys import ring_file, sealing
from keys.crypto_sealed import KeyRing
from keys.sealed_columns import Renewal, keys_in_use, renew_all

LOCK_NUMBER = 0x696E73746B6579  # "instkey"
SETTLE_SECONDS = 60.0  # longer than anybody holds a ring between taking it and writing what it sealed
AGAIN_SECONDS = 0.2
Report = Callable[[str], None]


class Next(StrEnum):
    ADD = "add"
    ACTIVATE = "activate"
    RENEW = "renew"


class RotationRuns(Exception):
    """Another rotation of this database's instance key runs."""


class RowsStayClosed(Exception):
    """Some rows name the old key and do not open with it: the old key stays on the ring. `renewal` names them."""

    def __init__(self, renewal: Renewal) -> None:
        super().__init__(f"{renewal.closed} values do not open and were left; the old instance key stays on the ring.")
        self.renewal = renewal


def next_step(ring: KeyRing, in_use: Collection[bytes]) -> Next:
    """`in_use` are the keys that something in the database is sealed with."""
    if ring.active != ring.newest and ring.newest not in in_use:
        return Next.ACTIVATE
    return Next.RENEW if len(ring.keys) > 1 else Next.ADD


def next_step_now() -> Next:
    return next_step(sealing.ring(), keys_in_use())


def rotate(report: Report, *, settle_seconds: float = SETTLE_SECONDS) -> None:
    """Take the ring file to its next key, or finish what a killed rotation began.

    Raises RotationRuns, RowsStayClosed, ImproperlyConfigured, and OSError where the file cannot be written.
    """
    with _only_one():
        path = sealing.ring_path()
        ring_file.remove_leftovers(path)
        if next_step_now() is Next.ADD:
            _put(sealing.ring().with_another(), report, "A new key is on the ring; it opens, and does not seal yet")
        if next_step_now() is Next.ACTIVATE:
            _put(sealing.ring().with_newest_active(), report, "The new key is the active one")
        renew(report, settle_seconds=settle_seconds)
        _put(sealing.ring().with_active_only(), report, "The old key is removed")


def resume_in_environment(report: Report, *, settle_seconds: float = SETTLE_SECONDS) -> None:
    """Renew everything under the ring of the environment, which has the new key active. Raises as `rotate`."""
    with _only_one():
        renew(report, settle_seconds=settle_seconds)


def renew(report: Report, *, settle_seconds: float) -> None:
    """Return when nothing is sealed under another key than the active one, and nothing can be any more."""
    started, settled_at = _database_now(), time.monotonic() + settle_seconds
    with _without_waiting_for_the_disk():
        renew_all(sealing.ring().active, report)
        _settle(started, settled_at, report)
        while (last := renew_all(sealing.ring().active, report)).found:
            report(f"{last.found} values were written meanwhile: looking once more")
    _record(last)
    if last.closed_keys & sealing.ring().keys.keys():
        raise RowsStayClosed(last)


def _put(ring: KeyRing, report: Report, what: str) -> None:
    """Replace the ring and read it back: nothing goes on with a ring that is not on the disk as it should be."""
    path = sealing.ring_path()
    ring_file.replace_ring_file(path, ring)
    if ring_file.read_ring(path) != ring or sealing.ring() != ring:
        raise OSError(f"{path} does not hold what was written to it.")
    report(f"{what}: {', '.join(_shown(key, ring) for key in ring.keys)}")


def _shown(key: bytes, ring: KeyRing) -> str:
    return f"{key.hex()} (active)" if key == ring.active else key.hex()


def _settle(started: datetime, settled_at: float, report: Report) -> None:
    """Wait until nobody can write any more what was sealed before `started`."""
    if settled_at > time.monotonic():
        report(f"Waiting {settled_at - time.monotonic():.0f} s for what is being written under the old key")
    time.sleep(max(0.0, settled_at - time.monotonic()))
    while waiting := _writing_since_before(started):
        report(f"Waiting for {waiting} older transactions to end")
        time.sleep(AGAIN_SECONDS)


def _writing_since_before(started: datetime) -> int:
    waiting = _value(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_xid IS NOT NULL AND xact_start <= %s",
        started,
    )
    assert isinstance(waiting, int)
    return waiting


def _record(last: Renewal) -> None:
    ring = sealing.ring()
    before = {"keys": [key.hex() for key in ring.keys]}
    after = {"active": ring.active.hex(), "left": last.closed}
    audit.record_for(None, "instance key rotated", before=before, after=after, severity=Severity.HIGH)


@contextmanager
def _only_one() -> Iterator[None]:
    if not _value("SELECT pg_try_advisory_lock(%s)", LOCK_NUMBER):
        raise RotationRuns("Another rotation of the instance key runs on this database: let it finish.")
    try:
        yield
    finally:
        _value("SELECT pg_advisory_unlock(%s)", LOCK_NUMBER)


@contextmanager
def _without_waiting_for_the_disk() -> Iterator[None]:
    _value("SELECT set_config('synchronous_commit', 'off', false)")
    try:
        yield
    finally:
        _value("SELECT set_config('synchronous_commit', 'on', false)")


def _database_now() -> datetime:
    now = _value("SELECT clock_timestamp()")
    assert isinstance(now, datetime)
    return now


def _value(sql: str, *parameters: int | datetime) -> object:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        row: tuple[object] = cursor.fetchone()
        return row[0]
