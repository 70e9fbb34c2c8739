"""Sessions of jobs that encrypt with a KMS key: what they keep, what an outage means, and how they fail closed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db.models import Model
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from backupsite.models import AuditEvent, Role
from jobs import custody, supervising
from jobs.byte_paths import quoted
from jobs.jobs import start_new_chain
from jobs.models import Encryption, Job, JobChain, LogLine, Proxy, Session, State
from jobs.protocol import BackupRequest, request_line
from jobs.recipients import recipients_of
from jobs.rewrap_orders import Order, Wanted, start_rewrap
from jobs.sessions import start_backup, start_restore, start_verify
from jobs.tasks import run_session
from keys.kms_servers import add_version, connected, declare_lost, pair_name
from keys.models import KeyState, KmsKey, KmsKeyVersion, KmsServer, Outage, RecoveryKey
from keys.recovery import retire
from keys.sealing import vouch_for
from repositories.engine.backup import BackupOrder, FreeSpace, Kind, write_backup
from repositories.engine.reader import Point, inspect, open_point
from repositories.models import Chain, RestorePoint
from repositories.own_secrets import own_secrets
from tests.engine.lab import Recorder
from tests.factories import (
    make_job,
    make_kms_key,
    make_kms_server,
    make_password,
    make_proxy,
    make_recovery_key,
    make_repository,
    make_user,
)
from tests.jobs.unfinished import leave_unfinished
from tests.kms.server import KmipServer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def proxy(transactional_db: None) -> Proxy:
    proxy = make_proxy()
    Proxy.objects.filter(pk=proxy.pk).update(seen_at=timezone.now() + timedelta(hours=1))
    return proxy


@pytest.fixture
def server(kmip_server: KmipServer) -> KmsServer:
    return make_kms_server(kmip_server, name="vault", answered_at=timezone.now())


@pytest.fixture
def key(server: KmsServer, kmip_server: KmipServer) -> KmsKey:
    return make_kms_key(server, kmip_server)


@pytest.fixture
def job(tmp_path: Path, key: KmsKey) -> Job:
    source = tmp_path / "source"
    source.mkdir()
    (source / "one").write_bytes(os.urandom(5000))
    repository = make_repository(tmp_path / "repository")
    return make_job(sources=[str(source)], repository=repository, encryption=Encryption.KMS, kms_key=key)


@pytest.fixture
def outage(kmip_server: KmipServer) -> Iterator[None]:
    kmip_server.stop()
    yield
    kmip_server.start_again()


def back_up(job: Job) -> Session:
    session = start_backup(Job.objects.get(pk=job.pk), by=None)
    run_session(session.pk)
    session.refresh_from_db()
    return session


def backed_up(job: Job) -> RestorePoint:
    session = back_up(job)
    assert session.state == State.SUCCEEDED, (session.result_code, session.result_message)
    assert session.written_point is not None
    return session.written_point


def fails(job: Job, code: str = "key-out-of-reach") -> Session:
    """The next session fails, and nothing is written: no file, no row, no chain."""
    files = set(_files(job))
    points, chains = RestorePoint.objects.count(), Chain.objects.count()
    session = back_up(job)
    assert (session.state, session.result_code) == (State.FAILED, code), session.result_message
    assert set(_files(job)) == files
    assert (RestorePoint.objects.count(), Chain.objects.count()) == (points, chains)
    return session


def _files(job: Job) -> list[Path]:
    return [path for path in Path(job.repository.path).rglob("*") if path.is_file()]


def save(row: Model, column: str, **fields: object) -> None:
    """Change what the console vouches for, as its pages do."""
    for name, value in fields.items():
        setattr(row, name, value)
    setattr(row, column, vouch_for(row, column))
    row.save()


def test_what_a_session_keeps_of_a_kms_key(job: Job, key: KmsKey) -> None:
    recovery = make_recovery_key(name="safe")
    point = backed_up(job)
    kms, sheet = point.slots.order_by("pk")
    assert (kms.kind, kms.record_uuid, kms.version, kms.kms, kms.hint) == ("kms", key.uuid, 1, key.newest(), "vault")
    assert (sheet.kind, sheet.recovery, sheet.hint) == ("recovery", recovery, "safe")
    assert point.file_key_sealed is not None
    session = Session.objects.get(written_point=point)
    assert (session.claimed_settings["kms"], session.claimed_settings["kms_version"]) == ("vault", 1)
    used = AuditEvent.objects.get(action="key used")
    assert used.after["job"] == job.name
    with open_point(point.path, own_secrets()) as opened:
        assert opened.summary.kind == "full"


def test_an_outage_goes_on_with_the_cached_public_key(job: Job, outage: None) -> None:
    assert backed_up(job).kind == "full"
    assert backed_up(job).kind == "incremental"


def test_an_outage_of_more_than_seven_days_ends_it(job: Job, server: KmsServer, outage: None) -> None:
    backed_up(job)
    KmsServer.objects.update(answered_at=timezone.now() - timedelta(days=7, minutes=1))
    assert "vault" in fails(job).result_message


def test_a_server_that_is_to_be_asked_each_time(job: Job, server: KmsServer, kmip_server: KmipServer) -> None:
    save(server, "proof", outage=Outage.FAIL)
    backed_up(job)
    kmip_server.stop()
    try:
        assert fails(job).result_params["because"] == "kms-wrap-refused"
    finally:
        kmip_server.start_again()
    assert backed_up(job).kind == "incremental"


@pytest.mark.parametrize("state", [KeyState.DISABLED, KeyState.SCHEDULED, KeyState.GONE])
def test_a_key_that_is_not_active_is_not_sealed_for(job: Job, state: KeyState) -> None:
    backed_up(job)
    KmsKeyVersion.objects.update(state=state)
    fails(job)


def test_rows_that_are_not_vouched_for(job: Job, key: KmsKey, server: KmsServer) -> None:
    backed_up(job)
    stranger = make_recovery_key()
    for rows, change in (
        (KmsKeyVersion.objects.filter(key=key), {"private_id": "another"}),
        (KmsServer.objects.filter(pk=server.pk), {"oaep": 3}),
        (RecoveryKey.objects.filter(pk=stranger.pk), {"retired_at": timezone.now()}),
        (RecoveryKey.objects.filter(pk=stranger.pk), {"proof": None}),
    ):
        before = dict(rows.values(*change)[0])
        rows.update(**change)
        fails(job)
        rows.update(**before)
    assert backed_up(job).kind == "incremental"


def test_a_rotated_key_is_an_incremental_under_the_new_pair(job: Job, key: KmsKey, server: KmsServer) -> None:
    backed_up(job)
    with connected(server) as kms:
        add_version(key, kms.rotate(pair_name(key.uuid), 1, 3072))
    point = backed_up(job)
    session = Session.objects.get(written_point=point)
    assert (session.plan_kind, session.plan_reason) == ("incremental", "key-changed")
    assert [slot.version for slot in inspect(point.path).slots] == [2]


def test_a_lost_key_starts_a_new_chain(job: Job, key: KmsKey, server: KmsServer) -> None:
    first = backed_up(job)
    declare_lost(key.newest())
    fails(job)  # nothing is sealed for it any more
    with connected(server) as kms:
        add_version(key, kms.rotate(pair_name(key.uuid), 1, 3072))
    point = backed_up(job)
    assert (point.kind, point.chain == first.chain) == ("full", False)
    assert Session.objects.get(written_point=point).plan_reason == "key-gone"


def test_a_sealed_file_without_a_row_is_registered_through_the_server(job: Job) -> None:
    backed_up(job)
    lost = backed_up(job)
    Session.objects.update(written_point=None)
    RestorePoint.objects.filter(pk=lost.pk).delete()
    backed_up(job)
    assert list(RestorePoint.objects.order_by("sequence").values_list("sequence", flat=True)) == [1, 2, 3]
    assert RestorePoint.objects.get(sequence=2).uuid == lost.uuid


def _interrupted(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, requests: list[BackupRequest] | None = None
) -> RestorePoint:
    """The first session of the job was killed: an unfinished file is there, and no row of chain or point."""
    requests = [] if requests is None else requests
    with monkeypatch.context() as patch:
        patch.setattr(supervising, "request_line", lambda request: requests.append(request) or request_line(request))
        point = backed_up(job)
    Session.objects.update(written_point=None, state=State.INTERRUPTED)
    point.delete()
    JobChain.objects.all().delete()
    point.chain.delete()
    point.path.unlink()
    leave_unfinished(requests[0], tmp_path, monkeypatch)
    return point


def test_an_unfinished_file_is_written_on_with_what_the_server_opens(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = _interrupted(job, tmp_path, monkeypatch)
    assert backed_up(job).uuid == point.uuid
    assert LogLine.objects.filter(code="resumed").exists()


def test_an_unfinished_file_that_somebody_else_began_is_not_written_on(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the public half alone anybody can wrap a key of his own for the KMS."""
    requests: list[BackupRequest] = []
    point = _interrupted(job, tmp_path, monkeypatch, requests)
    part = next(point.path.parent.glob("*.part"))
    part.unlink()
    forged = replace(requests[0], file_key=bytes(32))
    assert leave_unfinished(forged, tmp_path, monkeypatch) == part
    written = backed_up(job)
    assert written.uuid != point.uuid
    assert not part.exists()
    assert not LogLine.objects.filter(code="resumed").exists()


def test_without_the_server_an_unfinished_file_is_begun_anew(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kmip_server: KmipServer
) -> None:
    point = _interrupted(job, tmp_path, monkeypatch)
    kmip_server.stop()
    try:
        assert backed_up(job).uuid != point.uuid
    finally:
        kmip_server.start_again()
    assert LogLine.objects.filter(code="leftover-removed").exists()


def test_a_first_file_that_somebody_made_with_the_public_half_is_not_adopted(job: Job) -> None:
    """A session that ended early named the chain; a file there opens with the KMS, whoever made it."""
    point = backed_up(job)
    chain, path = point.chain, point.path
    Session.objects.update(written_point=None, state=State.INTERRUPTED)
    point.delete()
    JobChain.objects.all().delete()
    chain.delete()
    path.unlink()
    order = BackupOrder(
        root=Path(job.repository.path),
        chain_id=chain.uuid,
        file_id=uuid4(),
        sequence=1,
        kind=Kind.FULL,
        reason="first-session",
        started_at_ns=time.time_ns(),
        sources=tuple(os.fsencode(source) for source in job.sources),
        recipients=recipients_of(job).all(),
        reserve=FreeSpace(bytes=0, share=0),
        job_name=job.name,
    )
    write_backup(order, Recorder())
    assert backed_up(job).chain.uuid != chain.uuid
    assert LogLine.objects.get(code="cannot-adopt").message.endswith("somebody else made it.")
    assert path.exists()


# Strict custody


@pytest.fixture
def strict(job: Job) -> Job:
    make_recovery_key()
    save(job, "protection_proof", strict_custody=True)
    return job


def test_strict_custody_keeps_no_file_key_and_asks_the_server(strict: Job, tmp_path: Path, server: KmsServer) -> None:
    backed_up(strict)
    point = backed_up(strict)
    assert not RestorePoint.objects.exclude(file_key_sealed=None).exists()
    (tmp_path / "out").mkdir()
    for session in (
        start_restore(point, by=make_user(), paths=[], into=str(tmp_path / "out"), existing="skip"),
        start_verify(point, by=None, depth="full"),
    ):
        run_session(session.pk)
        session.refresh_from_db()
        assert session.state == State.SUCCEEDED, session.result_message
    assert list((tmp_path / "out").rglob("one"))


def test_without_the_server_strict_custody_reads_nothing(
    strict: Job, client: Client, kmip_server: KmipServer, tmp_path: Path
) -> None:
    point = backed_up(strict)
    client.force_login(make_user(Role.RESTORE_OPERATOR))
    into = tmp_path / "out"
    into.mkdir()
    starts = (
        lambda: start_verify(point, by=None, depth="quick"),
        lambda: start_restore(point, by=make_user(), paths=[], into=str(into), existing="skip"),
    )
    one = os.fsencode(strict.sources[0]).lstrip(b"/") + b"/one"
    download = f"{reverse('point_download', args=[point.uuid])}?path={quoted(one)}"
    pages = (reverse("point_browse", args=[point.uuid]), download)
    kmip_server.stop()
    try:
        fails(strict)
        for start in starts:
            reader = start()
            run_session(reader.pk)
            reader.refresh_from_db()
            assert (reader.state, reader.result_code) == (State.FAILED, "key-out-of-reach"), reader.kind
            assert "vault" in reader.result_message, reader.kind
            assert reader.result_message.endswith("Nothing was done without its keys."), reader.kind
        assert not list(into.iterdir())
        for page in pages:
            response = client.get(page)
            assert response.status_code == 503, page
            assert "vault" in response.content.decode() and "when the server answers" in response.content.decode(), page
    finally:
        kmip_server.start_again()
    assert not AuditEvent.objects.filter(action="download").exists()
    assert client.get(pages[0]).status_code == 200
    response = client.get(download)
    assert response.getvalue() == Path(strict.sources[0], "one").read_bytes()


def test_a_rewrap_waits_for_the_server_and_works_when_it_is_back(strict: Job, kmip_server: KmipServer) -> None:
    point = backed_up(strict)
    sheet = make_recovery_key()
    order = Order(point.chain.uuid, (Wanted("recovery", sheet.uuid, 1),), ())
    ends = []
    kmip_server.stop()
    try:
        ends.append(_rewrapped(point, order))
    finally:
        kmip_server.start_again()
    assert sheet.uuid not in {slot.record for slot in inspect(point.path).slots}
    ends.append(_rewrapped(point, order))
    assert [session.state for session in ends] == [State.FAILED, State.SUCCEEDED], ends[0].result_message
    assert sheet.uuid in {slot.record for slot in inspect(point.path).slots}


def _rewrapped(point: RestorePoint, order: Order) -> Session:
    session = start_rewrap(point.chain, order, by=None)
    run_session(session.pk)
    session.refresh_from_db()
    return session


def test_keys_that_were_kept_go_when_the_server_opened_the_new_point(job: Job) -> None:
    make_recovery_key()
    first = backed_up(job)
    assert first.file_key_sealed is not None
    save(job, "protection_proof", strict_custody=True)
    second = backed_up(job)
    assert not RestorePoint.objects.exclude(file_key_sealed=None).exists()
    assert AuditEvent.objects.filter(action="file keys forgotten").exists()
    assert LogLine.objects.filter(code="custody-strict", session__written_point=second).exists()


def test_keys_of_the_chain_before_go_too_but_not_those_of_a_password(job: Job, key: KmsKey) -> None:
    make_recovery_key()
    password = make_password()
    save(job, "protection_proof", encryption=Encryption.PASSWORD, password=password, kms_key=None)
    only_password = backed_up(job).chain
    start_new_chain(job)
    save(Job.objects.get(pk=job.pk), "protection_proof", encryption=Encryption.KMS, password=None, kms_key=key)
    with_kms = backed_up(job).chain
    start_new_chain(job)
    save(Job.objects.get(pk=job.pk), "protection_proof", strict_custody=True)
    newest = backed_up(job).chain
    assert len({only_password, with_kms, newest}) == 3
    kept = RestorePoint.objects.exclude(file_key_sealed=None)
    assert {point.chain for point in kept} == {only_password}


def test_keys_that_were_kept_stay_when_the_server_cannot_open_the_new_point(job: Job, kmip_server: KmipServer) -> None:
    make_recovery_key()
    backed_up(job)
    save(job, "protection_proof", strict_custody=True)
    kmip_server.stop()
    try:
        point = backed_up(job)  # sealed for the cached public key; the parent's key was kept
    finally:
        kmip_server.start_again()
    assert RestorePoint.objects.exclude(file_key_sealed=None).count() == 1
    assert LogLine.objects.filter(code="custody-not-strict", session__written_point=point).exists()
    backed_up(job)
    assert not RestorePoint.objects.exclude(file_key_sealed=None).exists()


def test_keys_that_were_kept_stay_when_the_newest_file_was_exchanged(job: Job) -> None:
    make_recovery_key()
    first, second = backed_up(job), backed_up(job)
    second.path.write_bytes(first.path.read_bytes())
    save(job, "protection_proof", strict_custody=True)
    point = backed_up(job)
    assert point.chain != second.chain  # the old one is damaged
    assert set(RestorePoint.objects.exclude(file_key_sealed=None)) == {first, second}
    assert LogLine.objects.filter(code="custody-not-strict", session__written_point=point).exists()


def test_a_key_stays_that_the_newest_point_does_not_have(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    make_recovery_key()
    first, second = backed_up(job), backed_up(job)
    save(job, "protection_proof", strict_custody=True)
    whole = custody.open_point

    def forgetful(*args: Any) -> Point:
        opened = whole(*args)
        opened.earlier_file_keys.pop(first.uuid)
        return opened

    monkeypatch.setattr(custody, "open_point", forgetful)
    backed_up(job)
    assert set(RestorePoint.objects.exclude(file_key_sealed=None)) == {first}
    assert second.chain == first.chain


def test_strict_custody_writes_nothing_once_its_way_back_is_gone(strict: Job, server: KmsServer) -> None:
    backed_up(strict)
    retire(RecoveryKey.objects.get())
    session = fails(strict)
    assert "strict custody" in session.result_message and "vault" in session.result_message
    save(server, "proof", outage=Outage.FAIL)
    backed_up(strict)


def test_an_older_point_opens_through_the_newest_when_its_own_pair_is_gone(
    strict: Job, key: KmsKey, server: KmsServer, client: Client
) -> None:
    first = backed_up(strict)
    with connected(server) as kms:
        add_version(key, kms.rotate(pair_name(key.uuid), 1, 3072))
    backed_up(strict)
    old = key.versions.get(number=1)
    KmsKeyVersion.objects.filter(pk=old.pk).update(state=KeyState.DESTROYED)
    client.force_login(make_user(Role.RESTORE_OPERATOR))
    assert client.get(f"/points/{first.uuid}/browse/").status_code == 200
