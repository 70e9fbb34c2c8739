"""Rotation of the instance key: killed anywhere the console opens everything, and running it again finishes."""

from __future__ import annotations

import base64
import json
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from backupsite.models import AuditEvent
from jobs.models import Job, Question
from keys import ring_file, rotation, sealing, signing
from keys.crypto_sealed import KeyRing, key_id_of, seal
from keys.models import PasswordVersion, SigningKey
from keys.sealed_columns import columns, keys_in_use
from keys.sealing import seal_for
from repositories.models import Kind, RestorePoint
from repositories.reading import file_key_of, seal_file_key
from tests import soak
from tests.factories import make_chain, make_job, make_password, make_point, make_proxy
from tests.forks import fork
from tests.keys.rings import use_ring, use_ring_file

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ring(settings: Any, tmp_path: Path) -> Path:
    return use_ring_file(settings, tmp_path)


def quietly(text: str) -> None:
    """Nobody reads the progress here."""


def rotate(report: Callable[[str], None] = quietly) -> None:
    rotation.rotate(report, settle_seconds=0)


def fill(points: int = 3) -> None:
    job = make_job()
    for number in range(points):
        seal_file_key(make_point(), bytes([number]) * 32)
    signing.private_bytes()
    question = Question(proxy=job.proxy, question_sealed=b"")
    question.save()
    question.question_sealed = seal_for(question, "question_sealed", b"{}")
    question.save()


def open_everything() -> int:
    """Open every sealed value and check every proof, as a process that has just started; return how many."""
    sealing._of_file.cache_clear()
    rows = [(column, row) for column in columns() for row in column.rows()]
    for column, row in rows:
        column.check(row)
    return len(rows)


# The steps


def test_everything_is_renewed_and_the_old_key_is_gone(ring: Path) -> None:
    fill()
    old = sealing.ring()
    values = open_everything()
    said: list[str] = []
    rotate(said.append)
    new = sealing.ring()
    assert new.active != old.active and list(new.keys) == [new.active]
    assert keys_in_use() == {new.active} and open_everything() == values
    assert ring.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in ring.parent.iterdir()] == ["instance-keys"]
    assert "repositories_restorepoint.file_key_sealed: up to row" in " ".join(said)
    assert not any(base64.b64encode(key).decode() in " ".join(said) for key in (*old.keys.values(), *new.keys.values()))


def test_what_was_sealed_is_what_opens_afterwards(ring: Path) -> None:
    point, version = make_point(), make_password().newest()
    seal_file_key(point, b"k" * 32)
    kek, private = sealing.unseal_for(version, "kek_sealed"), signing.private_bytes()
    rotate()
    point.refresh_from_db(), version.refresh_from_db()
    assert file_key_of(point) == b"k" * 32
    assert (sealing.unseal_for(version, "kek_sealed"), signing.private_bytes()) == (kek, private)


def test_the_new_key_opens_before_it_seals_and_the_old_one_goes_last(ring: Path, monkeypatch) -> None:
    fill()
    written: list[tuple[int, int, set[bytes]]] = []
    replace = ring_file.replace_ring_file

    def watched(path: Path, new: KeyRing) -> None:
        written.append((len(new.keys), list(new.keys).index(new.active), keys_in_use()))
        replace(path, new)

    monkeypatch.setattr(ring_file, "replace_ring_file", watched)
    old = sealing.ring().active
    rotate()
    assert written == [(2, 0, {old}), (2, 1, {old}), (1, 0, {sealing.ring().active})]


def test_an_old_key_that_was_put_back_does_not_become_the_active_one_again(ring: Path) -> None:
    """For an older dump somebody adds the old key at the end; something is sealed with it, so it is not a new one."""
    old = sealing.ring()
    fill()
    rotate()
    new = sealing.ring()
    ring_file.replace_ring_file(ring, KeyRing(new.active, {**new.keys, **old.keys}))
    point = make_point()
    point.file_key_sealed = seal(old, bytes(32), sealing.place(point, "file_key_sealed"))
    point.save()
    rotate()
    assert list(sealing.ring().keys) == [new.active] and keys_in_use() == {new.active}
    assert open_everything()


def test_a_rotation_is_an_event_of_high_severity(ring: Path) -> None:
    fill()
    old = sealing.ring().active
    rotate()
    event = AuditEvent.objects.get(action="instance key rotated")
    new = sealing.ring()
    assert event.severity == "high" and event.after == {"active": new.active.hex(), "left": 0}
    assert event.before == {"keys": [old.hex(), new.active.hex()]}


def test_a_second_rotation_at_the_same_time_is_refused(ring: Path) -> None:
    refused: list[Exception] = []

    def another() -> None:
        try:
            rotate()
        except rotation.RotationRuns as error:
            refused.append(error)
        connection.close()

    def when_the_first_runs(text: str) -> None:
        if "active one" in text:
            thread = threading.Thread(target=another)
            thread.start()
            thread.join()

    fill()
    rotate(when_the_first_runs)
    assert len(refused) == 1


def test_the_proof_of_a_row_that_was_changed_outside_is_not_renewed_and_the_old_key_stays(ring: Path) -> None:
    forged, good = make_job(), make_job(name="untouched")
    Job.objects.filter(pk=forged.pk).update(strict_custody=False, password=make_password())
    old = sealing.ring().active
    with pytest.raises(CommandError, match="changed outside this console") as said:
        call_command("rotate_instance_key", settle_seconds=0)
    assert forged.name in str(said.value) and "the old instance key stays" in str(said.value)
    for job, key_id in ((forged, old), (good, sealing.ring().active)):
        job.refresh_from_db()
        assert key_id_of(job.protection_proof) == key_id
    assert next(iter(sealing.ring().keys)) == old
    forged.delete()
    rotate()  # the cause is away: it finishes, and begins no further one
    assert old not in sealing.ring().keys and keys_in_use() == {sealing.ring().active}


def test_a_value_of_an_unknown_key_is_left_and_does_not_keep_the_old_one(ring: Path) -> None:
    fill()
    stranger = seal(KeyRing.new(), b"x", ("somewhere",))
    PasswordVersion.objects.filter(pk=make_password().newest().pk).update(kek_sealed=stranger)
    rotate()
    assert len(sealing.ring().keys) == 1
    assert AuditEvent.objects.get(action="instance key rotated").after["left"] == 1


def test_more_rows_than_one_batch(ring: Path, monkeypatch) -> None:
    monkeypatch.setattr("keys.sealed_columns.ROWS_AT_ONCE", 2)
    fill(points=5)
    rotate()
    assert keys_in_use() == {sealing.ring().active}


# Others who write meanwhile


def test_a_row_written_meanwhile_is_not_overwritten(ring: Path, monkeypatch) -> None:
    point = make_point()
    seal_file_key(point, b"old" + bytes(29))
    renewed = sealing.seal_for

    def overtaken(row: Any, column: str, value: bytes) -> bytes:
        sealed = renewed(row, column, value)
        if value.startswith(b"old"):
            seal_file_key(point, b"new" + bytes(29))  # between reading the row and writing it
        return sealed

    monkeypatch.setattr("keys.sealed_columns.seal_for", overtaken)
    rotate()
    point.refresh_from_db()
    assert file_key_of(point) == b"new" + bytes(29)


def test_who_sealed_under_the_old_key_and_commits_late_is_waited_for(ring: Path) -> None:
    """A transaction that took the ring before the rotation began and ends when all rows were looked at."""
    fill()
    old = sealing.ring()
    point = make_point()
    wrote, may_end = threading.Event(), threading.Event()

    def late() -> None:
        with transaction.atomic():
            point.file_key_sealed = seal(old, b"late" + bytes(28), sealing.place(point, "file_key_sealed"))
            point.save(update_fields=["file_key_sealed"])
            wrote.set()
            assert may_end.wait(20)
        connection.close()

    thread = threading.Thread(target=late)
    thread.start()
    assert wrote.wait(20)
    said: list[str] = []

    def report(text: str) -> None:
        said.append(text)
        if "older transactions" in text:
            may_end.set()

    rotate(report)
    thread.join()
    assert any("Waiting for 1 older transactions" in text for text in said)
    point.refresh_from_db()
    assert file_key_of(point) == b"late" + bytes(28) and keys_in_use() == {sealing.ring().active}


def test_a_process_with_the_old_ring_in_memory_opens_and_seals_with_the_new_one(ring: Path) -> None:
    """A real process that reads and writes all the time, begun before the rotation: it never fails."""
    fill()
    point = make_point()
    seal_file_key(point, bytes(32))
    go_on, said = os.pipe(), os.pipe()

    def work() -> None:
        os.close(go_on[1])
        rounds = 0
        os.set_blocking(go_on[0], False)
        while True:
            seal_file_key(point, bytes([rounds % 256]) * 32)
            open_from_here()
            rounds += 1
            os.write(said[1], b".")
            try:
                if os.read(go_on[0], 1) == b"":
                    return
            except BlockingIOError:
                continue

    def open_from_here() -> None:
        for column in columns():
            for row in column.rows():
                column.check(row)

    worker = fork(work)
    os.close(go_on[0])
    assert os.read(said[0], 1) == b"."
    rotate(lambda _: assert_alive(said[0]))
    rotate()
    os.close(go_on[1])
    assert os.waitpid(worker, 0)[1] == 0
    os.close(said[0]), os.close(said[1])
    assert open_everything() and keys_in_use() == {sealing.ring().active}


def assert_alive(descriptor: int) -> None:
    """The worker has done another round since the last step."""
    assert os.read(descriptor, 65536)


# Kills


CALLS = ("os.fsync", "os.replace", "os.chown", "django.db.models.query.QuerySet.update")


def kill_at(number: int) -> bool:
    """Rotate in a process that is killed before its n-th step; return whether it had that many."""

    def work() -> None:
        numbers = count()

        def step() -> None:
            if next(numbers) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(name, stepping(name, step))
            rotation.rotate(lambda _: step(), settle_seconds=0)

    _, status = os.waitpid(fork(work), 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    wait_until_the_database_noticed()
    return os.WIFSIGNALED(status)


def wait_until_the_database_noticed() -> None:
    """The lock of a killed process is free when its server process has found the connection closed."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [rotation.LOCK_NUMBER])
        cursor.execute("SELECT pg_advisory_unlock(%s)", [rotation.LOCK_NUMBER])


def stepping(name: str, step: Callable[[], None]) -> Callable[..., Any]:
    *_, last = name.rpartition(".")
    module = resolve_name(name.rpartition(".")[0])
    real = getattr(module, last)

    def call(*args: Any, **kwargs: Any) -> Any:
        step()
        return real(*args, **kwargs)

    return call


def kills() -> Iterator[int]:
    number = 0
    while kill_at(number):
        yield number
        number += 1


def test_killed_before_every_write_everything_opens_and_the_next_run_finishes(ring: Path) -> None:
    fill(points=1)
    values = open_everything()
    points = 0
    for number in kills():
        assert open_everything() == values, number
        rotate()
        assert open_everything() == values and list(sealing.ring().keys) == [sealing.ring().active], number
        assert keys_in_use() == {sealing.ring().active}
        assert [path.name for path in ring.parent.iterdir()] == ["instance-keys"]
        points += 1
    assert points > 20


def test_killed_again_and_again_without_a_run_between(ring: Path) -> None:
    fill(points=1)
    values = open_everything()
    for number in range(0, 20, 2):
        kill_at(number)
        assert open_everything() == values
    rotate()
    assert open_everything() == values and keys_in_use() == {sealing.ring().active}


@pytest.mark.soak
def test_killed_at_random_times_with_very_many_points(ring: Path) -> None:
    """The kill comes from outside, after a random time; meanwhile nothing else holds the process up."""
    fill_many(make_point(), soak.rounds(20_000))
    values = open_everything()
    chance = random.Random(soak.seed())
    for _ in range(10):
        worker = fork(lambda: rotation.rotate(quietly, settle_seconds=0))
        time.sleep(chance.uniform(0.05, 6))
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
        wait_until_the_database_noticed()
        assert open_everything() == values
    started = time.monotonic()
    rotate()
    print(f"the last run took {time.monotonic() - started:.1f} s")
    assert open_everything() == values and keys_in_use() == {sealing.ring().active}


def fill_many(point: RestorePoint, number: int) -> None:
    chain = make_chain()
    rows = [
        RestorePoint(
            uuid=uuid.uuid4(),
            chain=chain,
            sequence=sequence,
            kind=Kind.FULL,
            started_at=point.started_at,
            sealed_at=point.sealed_at,
            size_bytes=1,
            source_bytes=1,
            files=1,
            seal_hash=b"",
        )
        for sequence in range(1, number + 1)
    ]
    RestorePoint.objects.bulk_create(rows, batch_size=5000)
    for row in rows:
        row.file_key_sealed = seal_for(row, "file_key_sealed", row.uuid.bytes * 2)
    RestorePoint.objects.bulk_update(rows, ["file_key_sealed"], batch_size=2000)


# The ring in the environment


def put(settings: Any, printed: str) -> KeyRing:
    """Do what the command said: put the printed ring into the environment."""
    line = next(line for line in printed.splitlines() if line.startswith("{"))
    json.loads(line)
    return use_ring(settings, ring_file.parse_ring(line, "the test"))


def test_a_ring_in_the_environment_is_rotated_in_three_steps(settings: Any, capsys) -> None:
    first = use_ring(settings, KeyRing.new())
    fill()
    values = open_everything()
    for step, active, keys in ((1, first.active, 2), (2, None, 2), (3, None, 1)):
        call_command("rotate_instance_key", settle_seconds=0)
        printed = capsys.readouterr().out
        assert f"Step {step} of 3" in printed and "BACKUPSITE_INSTANCE_KEYS" in printed
        found = put(settings, printed)
        assert len(found.keys) == keys and (active is None or found.active == active)
        assert open_everything() == values  # also of what the step before left
    assert first.active not in found.keys and keys_in_use() == {found.active}


def test_resume_begins_nothing(ring: Path, capsys) -> None:
    fill()
    before = sealing.ring()
    call_command("rotate_instance_key", resume=True)
    assert sealing.ring() == before and "No rotation is under way" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_said(ring: Path, monkeypatch) -> None:
    before = sealing.ring()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CommandError, match=r"No space left on device.*Nothing is lost"):
        call_command("rotate_instance_key", settle_seconds=0)
    monkeypatch.undo()
    assert sealing.ring() == before


def test_a_database_that_goes_away_is_said_and_the_next_run_finishes(ring: Path) -> None:
    """The server ends the connection in the middle, as it does when it is stopped."""
    fill()
    values = open_everything()

    def end(text: str) -> None:
        if "active one" in text:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.MonkeyPatch.context() as patch:
        real = rotation.rotate
        patch.setattr(rotation, "rotate", lambda report, **options: real(end, settle_seconds=0))
        with pytest.raises(CommandError, match="The database does not answer"):
            call_command("rotate_instance_key")
    connection.close()
    assert open_everything() == values and len(sealing.ring().keys) == 2
    rotate()
    assert open_everything() == values and keys_in_use() == {sealing.ring().active}


def test_the_signing_key_is_not_made_by_a_rotation(ring: Path) -> None:
    make_proxy()
    rotate()
    assert not SigningKey.objects.exists()
