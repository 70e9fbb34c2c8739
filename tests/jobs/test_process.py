"""The process of a session: real ones, spoken to through their pipes."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs import protocol
from jobs.protocol import (
    BackupRequest,
    End,
    Event,
    Failed,
    MaySeal,
    MaySealAnswer,
    Noted,
    PointFile,
    Progressed,
    Recipients,
    Request,
    Restored,
    RestoreRequest,
    Verified,
    VerifyRequest,
    Written,
)
from keys.crypto_password import KdfParameters
from keys.crypto_recipients import PasswordRecipient
from repositories.engine.encrypted_only import is_marked
from repositories.engine.reader import FileKey, Kek, open_point
from tests.jobs.trees import make_slow_source
from tests.jobs.unfinished import leave_unfinished

PROGRAM = [sys.executable, "-E", "-s", "-m", "jobs.process"]
ROOT = Path(__file__).resolve().parents[2]
KEK = bytes(range(32))


class Child:
    """One process, and the worker's side of the conversation."""

    def __init__(self, request: Request) -> None:
        self.popen = subprocess.Popen(
            PROGRAM,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]},
        )
        self.events: list[Event] = []
        self.send(protocol.request_line(request))

    def send(self, line: bytes) -> None:
        assert self.popen.stdin
        self.popen.stdin.write(line)
        self.popen.stdin.flush()

    def answer(self, allowed: bool) -> None:
        self.send(protocol.line_of(MaySealAnswer(allowed)))

    def hear(self) -> Iterator[Event]:
        assert self.popen.stdout
        for line in self.popen.stdout:
            event = protocol.read_event(line)
            self.events.append(event)
            yield event

    def until(self, kind: type[Event]) -> Any:
        for event in self.hear():
            if isinstance(event, kind):
                return event
        raise AssertionError(f"no {kind.__name__}; {self.events} {self.stderr()}")

    def end(self, allowed: bool = True) -> End:
        """Answer what is asked and return the end."""
        for event in self.hear():
            if isinstance(event, MaySeal):
                self.answer(allowed)
        self.popen.wait(timeout=20)
        last = self.events[-1]
        assert isinstance(last, protocol.ENDS), (self.events, self.stderr())
        return last

    def stderr(self) -> str:
        assert self.popen.stderr
        return self.popen.stderr.read().decode()

    def close(self) -> None:
        self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            assert pipe
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


Start = Callable[[Request], Child]


@pytest.fixture
def start() -> Iterator[Start]:
    children: list[Child] = []

    def begin(request: Request) -> Child:
        children.append(Child(request))
        return children[-1]

    yield begin
    for child in children:
        child.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "one").write_bytes(b"one\n" * 1000)
    (folder / "sub" / "two").write_bytes(os.urandom(5000))
    return folder


@pytest.fixture
def request_(tmp_path: Path, source: Path) -> BackupRequest:
    recipient = PasswordRecipient(uuid.uuid4(), 1, bytes(16), KdfParameters(8 * 1024, 1, 1), KEK, "the hint")
    return BackupRequest(
        root=os.fsencode(tmp_path / "repository"),
        chain_id=uuid.uuid4(),
        file_id=uuid.uuid4(),
        sequence=1,
        kind="full",
        reason="first-session",
        started_at_ns=time.time_ns(),
        sources=(os.fsencode(source),),
        include=(),
        exclude=(),
        never=(os.fsencode(tmp_path / "repository"),),
        level="fast",
        recipients=Recipients(passwords=(recipient,)),
        parent_id=None,
        parent_path=None,
        parent_key=None,
        job_name="job",
        reserve_bytes=0,
        reserve_share=0.0,
    )


def path_of(request: BackupRequest) -> Path:
    return Path(os.fsdecode(request.root)) / str(request.chain_id) / str(request.sequence)


def files_in(request: BackupRequest) -> list[str]:
    return sorted(path.name for path in Path(os.fsdecode(request.root)).rglob("*") if path.is_file())


def point_file(request: BackupRequest, written: Written) -> PointFile:
    return PointFile(
        os.fsencode(path_of(request)), request.file_id, written.head_generation, written.seal_hash, written.file_key
    )


def restore_request(request: BackupRequest, written: Written, into: Path, **fields: Any) -> RestoreRequest:
    defaults: dict[str, Any] = {
        "point": point_file(request, written),
        "paths": (),
        "into": os.fsencode(into),
        "below": None,
        "existing": "skip",
        "kept_out": (),
        "reserve_bytes": 0,
        "reserve_share": 0.0,
    }
    return RestoreRequest(**{**defaults, **fields})


def backed_up(start: Start, request: BackupRequest) -> Written:
    end = start(request).end()
    assert isinstance(end, Written), end
    return end


def test_a_backup_is_written_and_opens_with_its_keys(start: Start, request_: BackupRequest) -> None:
    child = start(request_)
    child.until(MaySeal)
    assert not path_of(request_).exists()  # on disk, but not under its name before the worker said yes
    child.answer(True)
    written = child.end()
    assert isinstance(written, Written)
    assert child.popen.returncode == 0
    assert written.files == 2
    assert written.length == path_of(request_).stat().st_size
    assert any(isinstance(event, Progressed) for event in child.events)
    assert written.file_key
    for secret in (Kek(KEK), FileKey(written.file_key)):
        with open_point(path_of(request_), secret) as point:
            assert point.head.file_id == request_.file_id
            assert point.seal_hash == written.seal_hash


def test_a_second_backup_is_an_incremental_on_the_first(start: Start, request_: BackupRequest, source: Path) -> None:
    first = backed_up(start, request_)
    (source / "three").write_bytes(b"3")
    second = replace(
        request_,
        file_id=uuid.uuid4(),
        sequence=2,
        kind="incremental",
        parent_id=request_.file_id,
        parent_path=os.fsencode(path_of(request_)),
        parent_key=first.file_key,
    )
    written = backed_up(start, second)
    assert (written.files, written.new_files) == (3, 1)
    assert written.file_key
    with open_point(path_of(second), FileKey(written.file_key)) as point:
        assert point.summary.parent_id == request_.file_id


def test_a_worker_that_says_no_gets_no_file(start: Start, request_: BackupRequest) -> None:
    child = start(request_)
    end = child.end(allowed=False)
    assert isinstance(end, Failed)
    assert end.code == "fenced"
    assert child.popen.returncode == 1
    assert files_in(request_) == []


def test_without_a_worker_nothing_is_sealed(start: Start, request_: BackupRequest) -> None:
    child = start(request_)
    child.until(MaySeal)
    assert child.popen.stdin
    child.popen.stdin.close()
    end = child.end()
    assert isinstance(end, Failed)
    assert end.code == "fenced"
    assert files_in(request_) == []


def test_sigterm_stops_it_and_nothing_is_left(start: Start, request_: BackupRequest, source: Path) -> None:
    make_slow_source(source)
    child = start(replace(request_, level="strong"))
    child.until(Progressed)
    child.popen.send_signal(signal.SIGTERM)
    end = child.end()
    assert isinstance(end, Failed)
    assert end.code == "cancelled"
    assert files_in(request_) == []


def test_kill_leaves_a_file_that_the_next_session_removes(start: Start, request_: BackupRequest) -> None:
    child = start(request_)
    child.until(MaySeal)
    child.popen.kill()
    child.popen.wait()
    assert files_in(request_) != []
    again = replace(request_, chain_id=uuid.uuid4(), file_id=uuid.uuid4())
    child = start(again)
    assert isinstance(child.end(), Written)
    assert [event.code for event in child.events if isinstance(event, Noted)] == ["leftover-removed"]
    assert files_in(again) == ["1"]


def test_an_unfinished_file_is_written_on_and_keeps_its_id(
    start: Start, request_: BackupRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = leave_unfinished(request_, tmp_path, monkeypatch)
    child = start(replace(request_, file_id=uuid.uuid4()))
    end = child.end()
    assert isinstance(end, Written) and end.file_id == request_.file_id
    assert [event.code for event in child.events if isinstance(event, Noted)] == ["resumed"]
    assert not part.exists() and files_in(request_) == ["1"]
    with open_point(path_of(request_), Kek(KEK)) as point:
        assert point.head.file_id == request_.file_id


def test_the_unfinished_file_of_another_chain_is_left_alone(
    start: Start, request_: BackupRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = leave_unfinished(request_, tmp_path, monkeypatch)
    assert isinstance(start(replace(request_, chain_id=uuid.uuid4(), file_id=uuid.uuid4())).end(), Written)
    assert part.exists()


def test_without_its_worker_it_leaves_what_it_wrote(start: Start, request_: BackupRequest, source: Path) -> None:
    make_slow_source(source)
    child = start(replace(request_, level="strong"))
    child.until(Progressed)
    assert child.popen.stdin
    child.popen.stdin.close()
    child.popen.send_signal(signal.SIGTERM)
    end = child.end()
    assert isinstance(end, Failed)
    assert end.code == "interrupted"
    assert files_in(request_) == [f"1.{request_.file_id}.part"]


def test_keys_are_seen_nowhere_outside_the_pipe(start: Start, request_: BackupRequest) -> None:
    child = start(request_)
    child.until(MaySeal)
    proc = Path(f"/proc/{child.popen.pid}")
    seen = proc.joinpath("cmdline").read_bytes() + proc.joinpath("environ").read_bytes()
    child.answer(True)
    written = child.end()
    assert isinstance(written, Written)
    assert written.file_key
    said = seen + repr((request_, written, child.events)).encode() + child.stderr().encode()
    for key in (KEK, written.file_key):
        for form in (key, base64.b64encode(key), key.hex().encode(), repr(key)[2:-1].encode()):
            assert form not in said


def test_what_the_engine_refuses_is_told_with_its_fields(start: Start, request_: BackupRequest, tmp_path: Path) -> None:
    end = start(replace(request_, sources=(os.fsencode(tmp_path / "gone"),))).end()
    assert isinstance(end, Failed)
    assert end.code == "source-missing"
    assert end.params["path"] == str(tmp_path / "gone")
    assert str(tmp_path / "gone") in end.message


def test_a_line_that_is_no_request_is_not_repeated(start: Start) -> None:
    popen = subprocess.run(
        PROGRAM,
        input=b'{"kind": "backup", "kek": "c2VjcmV0"}\n',
        capture_output=True,
        cwd=ROOT,
        timeout=20,
        check=False,
    )
    assert popen.returncode == 1
    end = protocol.read_event(popen.stdout.splitlines()[-1])
    assert isinstance(end, Failed)
    assert end.code == "internal-error"
    assert b"c2VjcmV0" not in popen.stdout + popen.stderr


def test_a_restore(start: Start, request_: BackupRequest, source: Path, tmp_path: Path) -> None:
    written = backed_up(start, request_)
    into = tmp_path / "into"
    end = start(restore_request(request_, written, into)).end()
    assert isinstance(end, Restored), end
    assert end.files == 2
    restored = into / str(source).lstrip("/")
    assert (restored / "sub" / "two").read_bytes() == (source / "sub" / "two").read_bytes()


def test_a_restore_of_a_selection(start: Start, request_: BackupRequest, source: Path, tmp_path: Path) -> None:
    written = backed_up(start, request_)
    chosen = os.fsencode(source / "one").lstrip(b"/")
    end = start(restore_request(request_, written, tmp_path / "into", paths=(chosen,))).end()
    assert isinstance(end, Restored), end
    assert end.files == 1


@pytest.mark.parametrize("selected", [True, False])
def test_a_restore_keeps_out_of_repositories_below_its_target(
    start: Start, request_: BackupRequest, source: Path, tmp_path: Path, selected: bool
) -> None:
    """The original place is allowed to administrators; what is a repository there by now is not written into."""
    written = backed_up(start, request_)
    inside = os.fsencode(source / "sub").lstrip(b"/")
    other = os.fsencode(source / "one").lstrip(b"/")
    request = restore_request(
        request_,
        written,
        tmp_path / "into",
        paths=(inside,) if selected else (other,),
        kept_out=(os.fsencode(tmp_path / "into" / os.fsdecode(inside)),),
    )
    end = start(request).end()
    if selected:
        assert isinstance(end, Failed)
        assert (end.code, end.params["reason"]) == ("bad-target", "kept-out")
        assert not (tmp_path / "into").exists()
    else:
        assert isinstance(end, Restored)


def test_a_swapped_file_is_refused(start: Start, request_: BackupRequest, tmp_path: Path) -> None:
    written = backed_up(start, request_)
    known = restore_request(request_, written, tmp_path / "into")
    for point in (
        replace(known.point, file_id=uuid.uuid4()),
        replace(known.point, seal_hash=bytes(32)),
        replace(known.point, head_generation=written.head_generation + 1),
    ):
        end = start(replace(known, point=point)).end()
        assert isinstance(end, Failed)
        assert end.code == "corrupt-file"
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize("depth", ["quick", "full"])
def test_a_verify_finds_a_sound_point_sound(start: Start, request_: BackupRequest, depth: str) -> None:
    written = backed_up(start, request_)
    end = start(VerifyRequest(point_file(request_, written), depth)).end()
    assert isinstance(end, Verified), end
    assert (end.damages, end.damaged_files, end.damage) == (0, 0, "")


def test_a_verify_names_what_is_damaged(start: Start, request_: BackupRequest, source: Path) -> None:
    (source / "large").write_bytes(os.urandom(6 * 1024**2))
    written = backed_up(start, request_)
    with path_of(request_).open("r+b") as file:
        file.seek(written.length // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    child = start(VerifyRequest(point_file(request_, written), "full"))
    end = child.end()
    assert isinstance(end, Verified), end
    assert end.damages >= 1
    assert end.damaged_files >= 1
    named = [event.message for event in child.events if isinstance(event, Noted) and event.code == "damaged-file"]
    assert any("large" in message for message in named)


def test_neither_django_nor_a_database_is_loaded() -> None:
    code = (
        "import sys, jobs.process; "
        "print([m for m in sys.modules if m.split('.')[0] in ('django', 'psycopg', 'django_q')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, check=True, timeout=20)
    assert found.stdout == b"[]\n"


@pytest.mark.parametrize("allowed", [True, False])
def test_a_plain_request_into_a_repository_that_takes_encrypted_files_only(
    start: Start, request_: BackupRequest, tmp_path: Path, allowed: bool
) -> None:
    """Whatever the caller asks: the request itself says what the repository takes, and the engine obeys that."""
    ended = start(replace(request_, recipients=Recipients(), plain_allowed=allowed)).end()
    assert isinstance(ended, Written if allowed else Failed)
    if isinstance(ended, Failed):
        assert (ended.code, ended.params) == ("plaintext-refused", {"repository": str(tmp_path / "repository")})
        assert not (tmp_path / "repository").exists()


def test_an_encrypted_one_renews_the_marker(start: Start, request_: BackupRequest, tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    assert isinstance(start(replace(request_, plain_allowed=False)).end(), Written)
    assert is_marked(tmp_path / "repository")
