"""Rewrap sessions from start to stored end: real processes, real files, and the catalogue that follows them."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest
from django.db import OperationalError
from django.utils import timezone

from backupsite.models import AuditEvent, Severity
from jobs import rewrapping
from jobs.admission import admit
from jobs.file_keys import file_keys_of
from jobs.leases import Claim, claim, expire
from jobs.models import Job, LogLine, Proxy, Session, State
from jobs.planning import plan
from jobs.protocol import Heads, HeadSaid, RewrapDone, SlotSaid, read_event, request_line
from jobs.rewrap_orders import Order, Wanted, start_rewrap
from jobs.session_log import SessionLog
from jobs.sessions import AlreadyActive, start_backup, start_restore
from jobs.situation import situation_of
from jobs.supervising import kill_group, start_process
from jobs.tasks import run_session
from keys.crypto_recovery import new_private
from keys.kms.interface import KmsAway
from keys.models import Outage, PasswordRecord, PasswordVersion, RecoveryKey
from keys.passwords import kek_of
from repositories import catalogue, own_secrets
from repositories.engine.errors import CannotUnwrap
from repositories.engine.layout import BODY_OFFSET
from repositories.engine.reader import Kek, inspect, open_point
from repositories.heads import HeadNow
from repositories.models import Chain, RestorePoint, Slot
from repositories.reading import open_point as open_known
from tests.factories import (
    add_kms_version,
    change_password,
    make_job,
    make_kms_key,
    make_kms_server,
    make_password,
    make_proxy,
    make_recovery_key,
    make_repository,
    make_user,
)
from tests.jobs.real_points import many_heads, write_point
from tests.kms.server import KmipServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def proxy(transactional_db: None) -> Proxy:
    proxy = make_proxy()
    Proxy.objects.filter(pk=proxy.pk).update(seen_at=timezone.now() + timedelta(hours=1))
    return proxy


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(os.urandom(3000))
    repository = make_repository(tmp_path / "repository")
    return make_job(sources=[str(tmp_path / "source")], repository=repository, keep_points=100_000)


def write(job: Job, points: int) -> list[RestorePoint]:
    return [write_point(job) for _ in range(points)]


def old_and_new(job: Job) -> tuple[PasswordVersion, PasswordVersion]:
    assert job.password
    old = job.password.newest()
    return old, change_password(job.password)


def wanted(version: PasswordVersion) -> Wanted:
    return Wanted("password", version.record.uuid, version.number)


def order_for(points: list[RestorePoint], add: PasswordVersion, *remove: PasswordVersion) -> Order:
    taken = tuple((version.record.uuid, version.number) for version in remove)
    return Order(points[0].chain.uuid, (wanted(add),), taken)


def rewrap(points: list[RestorePoint], order: Order) -> Session:
    session = start_rewrap(points[0].chain, order, by=make_user())
    run_session(session.pk)
    session.refresh_from_db()
    return session


def opens(point: RestorePoint, version: PasswordVersion) -> bool:
    try:
        open_point(point.path, Kek(kek_of(version))).close()
    except CannotUnwrap:
        return False
    return True


def rows(points: list[RestorePoint]) -> list[tuple[int, list[int]]]:
    found = RestorePoint.objects.filter(pk__in=[point.pk for point in points]).order_by("sequence")
    slots = found.prefetch_related("slots")
    return [(p.head_generation, sorted(slot.version for slot in p.slots.all())) for p in slots]


def log_codes(session: Session) -> list[str]:
    return list(LogLine.objects.filter(session=session).values_list("code", flat=True))


def test_slots_are_added_then_taken_away_and_nothing_is_written_twice(job: Job) -> None:
    points = write(job, 3)
    old, new = old_and_new(job)
    before = bodies(points)
    session = rewrap(points, order_for(points, new))
    assert (session.state, session.result_code) == (State.SUCCEEDED, "rewrapped"), session.result_message
    assert session.result_params == {"written": 3, "passed": 0, "refused": 0, "closed": 0, "points": 3}
    assert [(opens(point, old), opens(point, new)) for point in points] == [(True, True)] * 3
    assert rows(points) == [(2, [1, 2])] * 3
    rewrap(points, order_for(points, new, old))
    assert [(opens(point, old), opens(point, new)) for point in points] == [(False, True)] * 3
    assert rows(points) == [(3, [2])] * 3
    assert bodies(points) == before
    assert {(slot.password, slot.hint) for slot in Slot.objects.all()} == {(new, job.password and job.password.hint)}
    assert plan(situation_of(job)).reason == "changes-since-parent", "the newest point opens with the new key already"
    again = rewrap(points, order_for(points, new, old))
    assert (again.result_params["written"], again.result_params["passed"]) == (0, 3)
    assert rows(points) == [(3, [2])] * 3
    requested, used, ended = AuditEvent.objects.order_by("pk")[:3]
    assert [event.action for event in (requested, used, ended)] == ["rewrap requested", "key used", "rewrap ended"]
    assert requested.severity == Severity.HIGH and requested.after["points"] == 3
    assert ended.after["written"] == 3


def test_only_the_points_of_a_record_and_a_recovery_key_with_them(job: Job) -> None:
    points = write(job, 2)
    job.password = make_password("another")
    job.save()
    points += write(job, 1)
    third, sheet = make_password("a third"), make_recovery_key()
    add = (wanted(third.newest()), Wanted("recovery", sheet.uuid, 1))
    session = rewrap(points, Order(points[0].chain.uuid, add, having=job.password.uuid))
    assert session.result_params["points"] == 1
    assert [opens(point, third.newest()) for point in points] == [False, False, True]
    assert [slot.point for slot in Slot.objects.filter(recovery=sheet, kind="recovery")] == [points[2]]


def test_a_recipient_that_the_console_does_not_vouch_for_gets_no_slot(job: Job) -> None:
    points = write(job, 1)
    sheet = make_recovery_key(retired_at=timezone.now())
    order = Order(points[0].chain.uuid, (Wanted("recovery", sheet.uuid, 1),))
    assert rewrap(points, order).result_code == "recipient-gone"
    RecoveryKey.objects.update(public=new_private().public(), retired_at=None)
    assert rewrap(points, order).result_code == "key-out-of-reach"
    assert inspect(points[0].path).generation == 1


def test_a_password_that_was_declared_lost_after_the_request_gets_no_slot(job: Job) -> None:
    points, other = write(job, 1), make_password("another")
    order = Order(points[0].chain.uuid, (wanted(other.newest()),), ((job.password.uuid, 1),))
    PasswordRecord.objects.filter(pk=other.pk).update(lost_at=timezone.now())
    assert rewrap(points, order).result_code == "recipient-gone"
    assert rows(points) == [(1, [1])] and opens(points[0], job.password.newest())


def test_nothing_that_could_be_done_is_a_failure() -> None:
    outcome = rewrapping.outcome_of(RewrapDone(0, 0, 1, stopped=False), {"points": 3, "closed": 2}, wished=False)
    assert (outcome.state, outcome.code, outcome.figures["warnings"]) == (State.FAILED, "nothing-rewrapped", 3)
    stopped = rewrapping.outcome_of(RewrapDone(1, 0, 0, stopped=True), {"points": 3}, wished=False)
    assert (stopped.state, stopped.code) == (State.INTERRUPTED, "stopped-outside")


def bodies(points: list[RestorePoint]) -> list[bytes]:
    return [hashlib.sha256(point.path.read_bytes()[BODY_OFFSET:]).digest() for point in points]


def rewrap_many_points(job: Job, number: int) -> float:
    """Rewrap a chain of so many points, check each, and return the seconds of the session."""
    chain = many_heads(job, number - 1)
    points = list(chain.points.select_related("chain__repository").order_by("sequence"))
    before, (old, new) = bodies(points), old_and_new(job)
    session = rewrap(points, order_for(points, new, old))
    assert (session.state, session.result_params["written"]) == (State.SUCCEEDED, number), session.result_message
    assert rows(points) == [(2, [2])] * number
    assert bodies(points) == before, "no block is written again"
    heads = [inspect(point.path) for point in points]
    assert {(head.generation, head.copies_differ, len(head.slots)) for head in heads} == {(2, False, 1)}
    assert {head.slots[0].version for head in heads} == {2}
    assert session.started_at and session.ended_at
    return (session.ended_at - session.started_at).total_seconds()


def test_two_hundred_points(job: Job) -> None:
    rewrap_many_points(job, 200)


@pytest.mark.soak
def test_ten_thousand_points_in_less_than_a_minute(job: Job) -> None:
    seconds = rewrap_many_points(job, 10_000)
    sys.stdout.write(f"A rewrap session of 10,000 points took {seconds:.1f} s.\n")
    assert seconds < 60


def test_a_crash_between_file_and_row_is_no_damage_and_the_next_rewrap_heals_the_row(job: Job) -> None:
    points = write(job, 2)
    old, new = old_and_new(job)
    order = order_for(points, new, old)
    rewrap(points, order)
    RestorePoint.objects.update(head_generation=1)  # the worker died before it stored what the process wrote
    Slot.objects.update(password=old, version=old.number)
    assert catalogue.check_chain(points[0].chain) == ""
    for point in RestorePoint.objects.all():
        open_known(point).close()
    backup = start_backup(job, by=None)
    run_session(backup.pk)
    backup.refresh_from_db()
    assert backup.state == State.SUCCEEDED, backup.result_message
    healed = rewrap(points, order)
    assert (healed.result_params["written"], healed.result_params["passed"]) == (0, 3)
    assert rows(points) == [(2, [2])] * 2


def test_killed_in_the_middle_the_next_one_goes_on_where_it_was(job: Job) -> None:
    """The process is killed after its first report, and its worker with it: no row was stored."""
    chain = many_heads(job, 249)
    points = list(chain.points.select_related("chain__repository").order_by("sequence"))
    old, new = old_and_new(job)
    order = order_for(points, new, old)
    session = start_rewrap(chain, order, by=None)
    held = claim(session.pk)
    assert held
    process = start_process()
    assert process.stdin and process.stdout
    process.stdin.write(request_line(rewrapping.prepare(session, held, SessionLog(session))))
    process.stdin.flush()
    next(event for event in map(read_event, process.stdout) if isinstance(event, Heads))
    kill_group(process)
    process.communicate()
    Session.objects.filter(pk=session.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    assert expire() == [session.pk]
    assert rows(points) == [(1, [1])] * 250
    again = rewrap(points, order)
    assert again.state == State.SUCCEEDED, again.result_message
    assert again.result_params["passed"] >= 100
    assert again.result_params["written"] + again.result_params["passed"] == 250
    assert rows(points)[:100] == [(2, [2])] * 100
    assert {versions[0] for _, versions in rows(points)} == {2}


def test_heads_wait_until_the_database_takes_them(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    points = write(job, 2)
    _, new = old_and_new(job)
    real, calls = rewrapping.store_heads, count()

    def away_at_first(chain: Chain, heads: Sequence[HeadNow]) -> int:
        if next(calls) == 0:
            raise OperationalError("the database went away")
        return real(chain, heads)

    monkeypatch.setattr(rewrapping, "store_heads", away_at_first)
    session = rewrap(points, order_for(points, new))
    assert session.state == State.SUCCEEDED, session.result_message
    assert rows(points) == [(2, [1, 2])] * 2
    assert next(calls) >= 2


def test_an_older_head_is_never_gone_on_from(job: Job) -> None:
    points = write(job, 2)
    old, new = old_and_new(job)
    before = points[0].path.read_bytes()[:BODY_OFFSET]
    rewrap(points, order_for(points, new, old))
    with points[0].path.open("r+b") as file:
        file.write(before)
    session = rewrap(points, order_for(points, old))
    assert (session.state, session.result_params["refused"]) == (State.WARNING, 1)
    assert "an old copy was put back" in LogLine.objects.get(session=session, code="rewrap-refused").message
    assert (inspect(points[0].path).generation, rows(points)[0]) == (1, (2, [2]))


def test_a_point_whose_key_is_out_of_reach_is_named_and_the_others_are_done(job: Job) -> None:
    points = write(job, 3)
    old, new = old_and_new(job)
    newest = points[2]
    RestorePoint.objects.filter(pk=newest.pk).update(file_key_sealed=None)
    Slot.objects.filter(point=newest).update(password=None)
    head = inspect(newest.path)
    PasswordVersion.objects.filter(pk=old.pk).update(number=77)  # the console no longer has what opens the slot
    session = rewrap(points, Order(newest.chain.uuid, (wanted(new),)))
    assert (session.state, session.result_params["closed"], session.result_params["written"]) == (State.WARNING, 1, 2)
    assert "Point 3 was left as it is" in LogLine.objects.get(session=session, code="rewrap-closed").message
    assert inspect(newest.path) == head


def test_a_key_is_found_in_the_keyring_of_a_newer_point_or_by_a_slot(job: Job) -> None:
    points = write(job, 3)
    cached = file_keys_of(points).known
    RestorePoint.objects.exclude(pk=points[2].pk).update(file_key_sealed=None)
    assert file_keys_of(list(RestorePoint.objects.order_by("sequence"))).known == cached, (
        "from the newest one's keyring"
    )
    RestorePoint.objects.update(file_key_sealed=None)
    found = file_keys_of(list(RestorePoint.objects.order_by("sequence")))
    assert (found.known, found.closed) == (cached, {}), "from the newest one's slot, then its keyring"


def test_an_order_that_was_changed_in_the_database_is_refused(job: Job) -> None:
    points = write(job, 1)
    _, new = old_and_new(job)
    session = start_rewrap(points[0].chain, order_for(points, new), by=None)
    other = start_rewrap_elsewhere(job, new)
    Session.objects.filter(pk=session.pk).update(order_sealed=bytes(other.order_sealed or b""))
    run_session(session.pk)
    session.refresh_from_db()
    assert session.result_code == "order-unreadable"


def start_rewrap_elsewhere(job: Job, new: PasswordVersion) -> Session:
    other = make_job(sources=job.sources, password=job.password, repository=make_repository(f"{job.repository.path}-2"))
    points = [write_point(other)]
    return start_rewrap(points[0].chain, order_for(points, new), by=None)


def test_whatever_a_stranger_put_into_a_hint_the_catalogue_follows(job: Job) -> None:
    (point,) = write(job, 1)
    session = start_rewrap(point.chain, order_for([point], old_and_new(job)[1]), by=None)
    hint = "\0" + "\n" * 170
    head = HeadSaid(point.uuid, 2, [SlotSaid("password", uuid4(), 1, hint)])
    claimed = claim(session.pk)
    assert claimed is not None
    rewrapping.storing(session, claimed)([head])
    point.refresh_from_db()
    assert point.head_generation == 2 and point.slots.get().hint.startswith(r"\x00\n")


def test_strict_custody_keeps_no_key_of_a_point_that_a_rewrap_registers(job: Job, kmip_server: KmipServer) -> None:
    key = make_kms_key(make_kms_server(kmip_server, outage=Outage.FAIL), kmip_server)
    job.encryption, job.password, job.kms_key, job.strict_custody = "kms", None, key, True
    job.save()
    first, lost = write(job, 2)
    RestorePoint.objects.update(file_key_sealed=None)
    lost.slots.all().delete()
    lost.delete()  # its session ended between publishing and registering
    version = add_kms_version(key, real=kmip_server)
    rewrap([first], Order(first.chain.uuid, (Wanted("kms", key.uuid, version.number),)))
    assert RestorePoint.objects.get(uuid=lost.uuid).pk != lost.pk
    assert not RestorePoint.objects.exclude(file_key_sealed=None).exists()


def test_strict_custody_asks_the_server_once_and_keeps_no_key(
    job: Job, kmip_server: KmipServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is in the cache: the server opens the newest point, whose keyring opens the others."""
    key = make_kms_key(make_kms_server(kmip_server, outage=Outage.FAIL), kmip_server)
    job.encryption, job.password, job.kms_key = "kms", None, key
    job.strict_custody = True
    job.save()
    points = write(job, 2)  # the second one finds the key of the first in the cache
    RestorePoint.objects.update(file_key_sealed=None)
    version = add_kms_version(key, real=kmip_server)
    order = Order(points[0].chain.uuid, (Wanted("kms", key.uuid, 2),), ((key.uuid, 1),))
    session = rewrap(points, order)
    assert (session.state, session.result_params["written"]) == (State.SUCCEEDED, 2), session.result_message
    assert rows(points) == [(2, [2])] * 2
    assert {slot.kms for slot in Slot.objects.all()} == {version}
    assert not RestorePoint.objects.exclude(file_key_sealed=None).exists()
    closed = file_keys_of(list(RestorePoint.objects.order_by("sequence")))
    assert len(closed.known) == 2, "the server opens what the rewrap sealed"
    asked = count()

    def away(*_: object) -> bytes:
        next(asked)
        raise KmsAway("The server does not answer.")

    monkeypatch.setattr(own_secrets, "slot_secrets", lambda: away)
    closed = file_keys_of(list(RestorePoint.objects.order_by("sequence")))
    assert (closed.known, set(closed.closed.values())) == ({}, {"The server does not answer."})
    assert next(asked) == 1, "it is waited for once, not for each point"


# Beside others


def test_one_writer_a_chain_and_no_other_job_waits(job: Job) -> None:
    points = write(job, 1)
    _, new = old_and_new(job)
    session = start_rewrap(points[0].chain, order_for(points, new), by=None)
    with pytest.raises(AlreadyActive):
        start_rewrap(points[0].chain, order_for(points, new), by=None)
    mine, others = start_backup(job, by=None), start_backup(make_job(sources=job.sources), by=None)
    for row in (session, mine, others):
        row.refresh_from_db()
    assert (session.state, mine.state, mine.wait_reason) == (State.QUEUED, State.WAITING, "chain-busy")
    assert others.wait_reason != "chain-busy"
    run_session(session.pk)
    admit()
    mine.refresh_from_db()
    assert mine.state == State.QUEUED


def test_a_stop_keeps_what_was_done_and_says_so(job: Job) -> None:
    points = write(job, 2)
    old, new = old_and_new(job)
    session = start_rewrap(points[0].chain, order_for(points, new, old), by=None)
    held = claim(session.pk)
    assert isinstance(held, Claim)
    Session.objects.filter(pk=session.pk).update(cancel_requested_at=timezone.now())
    request = rewrapping.prepare(session, held, rewrapping_log(session))
    done = RewrapDone(written=1, passed=0, refused=0, stopped=True)
    outcome = rewrapping.finish(session, held, request, done, rewrapping_log(session))
    assert (outcome.state, outcome.code, outcome.params["written"]) == (State.CANCELLED, "cancelled", 1)
    assert "Started again, it goes on" in outcome.message


def rewrapping_log(session: Session) -> SessionLog:
    return SessionLog(session)


def test_a_restore_that_runs_meanwhile_succeeds(job: Job, tmp_path: Path) -> None:
    """It waits in the middle of reading until every head is another one: its descriptor stays good."""
    source = tmp_path / "source"
    for number in range(40):
        (source / f"file {number}").write_bytes(os.urandom(100_000))
    points = write(job, 2)
    old, new = old_and_new(job)
    restore = start_restore(points[1], by=make_user(), paths=[], into=str(tmp_path / "into"), existing="skip")
    with open_known(points[1]) as reading:
        entries = iter(reading.walk())
        first = next(entry for entry in entries if entry.size)
        content = reading.read(first)
        next(content)
        session = rewrap(points, order_for(points, new, old))
        assert session.state == State.SUCCEEDED
        rest = sum(len(piece) for entry in entries if entry.size for piece in reading.read(entry))
    assert rest > 3_000_000
    run_session(restore.pk)
    restore.refresh_from_db()
    assert (restore.state, restore.files) == (State.SUCCEEDED, 41), restore.result_message
