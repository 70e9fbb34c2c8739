"""Which secret opens what, and what a file shows to those who have none."""

import errno
import hashlib
import os
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from repositories.engine.backup import Kind, Level
from repositories.engine.errors import (
    CannotUnwrap,
    CorruptFile,
    MissingFile,
    PlainRefused,
)
from repositories.engine.layout import BODY_OFFSET
from repositories.engine.reader import FileKey, Kek, Password, inspect, open_point
from repositories.engine.verify import verify
from tests.engine.lab import Chain, Recorder, facts_in_point, facts_on_disk, inside, recipient, write_tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_tree(tmp_path / "source", {"a": b"content of a" * 20, "folder/b": b"content of b" * 20})
    return tmp_path / "source"


@pytest.fixture
def chain(tmp_path: Path, source: Path) -> Chain:
    return Chain(tmp_path / "repository", source)


@pytest.fixture(params=["encrypted", "plain"])
def any_chain(request: pytest.FixtureRequest, tmp_path: Path, source: Path) -> Chain:
    return Chain(tmp_path / "repository", source, ("correct horse",) if request.param == "encrypted" else ())


def test_a_wrong_password_opens_nothing(chain: Chain) -> None:
    written = chain.write()
    for secret in (Password(b"wrong"), Kek(recipient("other").kek), FileKey(bytes(32)), None):
        with pytest.raises(CannotUnwrap):
            open_point(written.path, secret)
    with open_point(written.path, Password(b"correct horse")) as point:
        assert point.file_key == written.file_key


def test_each_recipient_opens(chain: Chain, source: Path) -> None:
    written = chain.write(passwords=("one", "two", "three"))
    for password in (b"one", b"two", b"three"):
        with open_point(written.path, Password(password)) as point:
            assert facts_in_point(point) == facts_on_disk(source)
    assert [slot.hint for slot in inspect(written.path).slots] == ["hint of one", "hint of two", "hint of three"]


def test_the_newest_key_opens_the_chain_and_an_older_file_needs_its_own(chain: Chain, source: Path) -> None:
    states = []
    for number, password in enumerate(("first", "second", "third")):
        (source / "a").write_bytes(b"state %d" % number)
        chain.write(passwords=(password,))
        states.append(facts_on_disk(source))
    with open_point(chain.points[2].path, Password(b"third")) as newest:
        assert facts_in_point(newest) == states[2]
        keys = newest.earlier_file_keys
        assert set(keys) == {point.file_id for point in chain.points[:2]}
    for number in (0, 1):
        with open_point(chain.points[number].path, FileKey(keys[chain.points[number].file_id])) as point:
            assert facts_in_point(point) == states[number]
        with pytest.raises(CannotUnwrap):
            open_point(chain.points[number].path, Password(b"third"))
    with open_point(chain.points[1].path, Password(b"second")) as point:
        assert facts_in_point(point) == states[1]
        assert chain.points[2].file_id not in point.earlier_file_keys


def test_keys_of_deleted_files_leave_the_keyring(chain: Chain) -> None:
    first = chain.write()
    chain.write(kind=Kind.FULL)
    first.path.unlink()
    chain.write()
    with chain.open() as point:
        assert set(point.earlier_file_keys) == {chain.points[1].file_id}


def test_a_key_for_a_plain_file_is_refused(tmp_path: Path, source: Path) -> None:
    written = Chain(tmp_path / "repository", source, ()).write()
    for secret in (Password(b"x"), Kek(bytes(32)), FileKey(bytes(32))):
        with pytest.raises(PlainRefused):
            open_point(written.path, secret)


def test_plain_is_never_joined_to_encrypted(chain: Chain) -> None:
    written = chain.write()
    with pytest.raises(PlainRefused):
        chain.write(passwords=())
    chain.points = [written]
    assert chain.names() == ["1"]


def test_encrypted_is_never_joined_to_plain(tmp_path: Path, source: Path) -> None:
    chain = Chain(tmp_path / "repository", source, ())
    chain.write()
    with pytest.raises(PlainRefused):
        chain.write(passwords=("late",))
    assert chain.names() == ["1"]


def test_what_is_no_file_is_named(chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path, error in (("folder", CorruptFile), ("nothing", MissingFile)):
        with pytest.raises(error):
            open_point(tmp_path / path, chain.secret())


def test_a_disk_that_cannot_be_read_is_damage(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    chain.write()
    whole = os.pread

    def fail_behind(limit: int) -> None:
        def pread(fd: int, length: int, offset: int) -> bytes:
            if offset + length > limit:
                raise OSError(errno.EIO, "Input/output error")
            return whole(fd, length, offset)

        monkeypatch.setattr(os, "pread", pread)

    with chain.open() as point:
        for limit in range(BODY_OFFSET, BODY_OFFSET + 100, 9):
            fail_behind(limit)
            assert not verify(point, "full", Recorder()).sound
    for limit in (0, BODY_OFFSET, BODY_OFFSET + 500):
        fail_behind(limit)
        with pytest.raises(CorruptFile):
            chain.open()


def test_the_signature_names_its_console(chain: Chain) -> None:
    console = Ed25519PrivateKey.generate()
    chain.write(signer=console)
    chain.write()
    with chain.open(0) as point:
        assert point.summary.signer == console.public_key().public_bytes_raw()
    with chain.open(1) as point:
        assert point.summary.signer == b""
        assert "unsigned" in verify(point, "quick", Recorder()).notes[0]


def test_no_key_shows_in_a_repr(chain: Chain) -> None:
    written = chain.write()
    with chain.open() as point:
        secrets = [written.file_key or b"", recipient().kek, point.keyring.chain_key if point.keyring else b""]
        shown = [
            repr(written), repr(recipient()), repr(point), repr(point.head), repr(point.keyring), repr(chain.points),
            repr(Password(b"correct horse")), repr(Kek(recipient().kek)), repr(FileKey(written.file_key or b"")),
            repr(point.container.seal), repr(point.head.slots),
        ]  # fmt: skip
        for secret in secrets:
            assert len(secret) == 32
            for text in shown:
                assert repr(secret)[2:-1] not in text and secret.hex() not in text
        assert "correct horse" not in "".join(shown).replace("hint of correct horse", "")


def test_no_name_and_no_content_is_in_the_clear(chain: Chain, source: Path) -> None:
    write_tree(source, {"a very telling name": b"a very telling content " * 100})
    raw = chain.write(level=Level.NONE).path.read_bytes()
    assert b"telling" not in raw and b"a job" not in raw and b"first-session" not in raw
    digests = [hashlib.sha256(path.read_bytes()).digest()[:16] for path in source.iterdir() if path.is_file()]
    assert not any(digest in raw for digest in digests)
    assert inside(source) not in raw


def test_equal_trees_make_unequal_files(chain: Chain, tmp_path: Path, source: Path) -> None:
    """Fresh keys everywhere: two chains of one source have nothing in common that a stranger could see."""
    one, two = (Chain(tmp_path / name, source).write(file_id=uuid4()).path.read_bytes()[BODY_OFFSET:] for name in "xy")
    windows = [{raw[i : i + 16] for i in range(len(raw) - 16)} for raw in (one, two)]
    common = {window for window in windows[0] & windows[1] if window.count(0) < 4}  # not the headers of records
    assert not common
