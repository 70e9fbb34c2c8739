"""No wrong byte is ever restored: flips, truncation, exchange of files, wrong secrets, hostile heads."""

import errno
import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.crypto_password import KdfParameters
from repositories.engine.backup import Kind, Level
from repositories.engine.errors import (
    CannotUnwrap,
    CorruptFile,
    EngineError,
    MissingFile,
    PlainRefused,
    UnknownVersion,
)
from repositories.engine.head import pack_head, read_heads
from repositories.engine.layout import BODY_OFFSET, HEAD_B_OFFSET, TRAILER_BYTES
from repositories.engine.reader import FileKey, Kek, Password, Secret, inspect, open_point
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


def interesting_positions(path: Path) -> list[int]:
    """Every byte that means something, and some of the padding."""
    with open(path, "rb") as file:
        used = len(read_heads(file.fileno(), path)[0].raw)
    length = path.stat().st_size
    heads = [*range(used), *range(HEAD_B_OFFSET, HEAD_B_OFFSET + used)]
    padding = [used, used + 1000, HEAD_B_OFFSET - 1, HEAD_B_OFFSET + used, BODY_OFFSET - 1]
    return [*heads, *padding, *range(BODY_OFFSET, length)]


def flip(path: Path, position: int, mask: int) -> None:
    with open(path, "r+b", buffering=0) as file:
        byte = os.pread(file.fileno(), 1, position)[0]
        os.pwrite(file.fileno(), bytes([byte ^ mask]), position)


def outcome(path: Path, secret: Secret | None) -> tuple[str, object]:
    """What a reader gets: an error by name, or all facts and whether a full verification finds the damage."""
    try:
        with open_point(path, secret) as point:
            report = verify(point, "full", Recorder())
            return "sound" if report.sound else "damage found", facts_in_point(point)
    except EngineError as error:
        assert str(error)
        return "refused", error


def test_a_flip_anywhere_is_found_and_never_restored(any_chain: Chain, source: Path) -> None:
    written = any_chain.write()
    truth, secret = facts_on_disk(source), any_chain.secret()
    assert outcome(written.path, secret) == ("sound", truth)
    refused = found = 0
    for position in interesting_positions(written.path):
        flip(written.path, position, 1 << position % 8)
        name, result = outcome(written.path, secret)
        flip(written.path, position, 1 << position % 8)
        assert name != "sound", f"the flip at {position} was not found"
        if name == "refused":
            refused += 1
            assert position >= BODY_OFFSET, "one damaged head copy still opens"
        else:
            found += 1
            assert result == truth
    assert refused > 500
    assert found > 500
    assert outcome(written.path, secret) == ("sound", truth)


def test_truncation_is_found(any_chain: Chain) -> None:
    written = any_chain.write()
    whole = written.path.read_bytes()
    lengths = {
        0,
        1,
        95,
        200,
        HEAD_B_OFFSET,
        BODY_OFFSET,
        *range(BODY_OFFSET, len(whole), 37),
        *range(len(whole) - 130, len(whole)),
    }
    for length in sorted(lengths):
        written.path.write_bytes(whole[:length])
        with pytest.raises(CorruptFile):
            open_point(written.path, any_chain.secret())
    written.path.write_bytes(whole + b"\0")
    with pytest.raises(CorruptFile):
        open_point(written.path, any_chain.secret())
    trailer = whole[-TRAILER_BYTES:]
    written.path.write_bytes(whole[: -TRAILER_BYTES - 10] + trailer)
    with pytest.raises(CorruptFile):
        open_point(written.path, any_chain.secret())


def test_points_exchanged_within_a_chain_are_found(any_chain: Chain, source: Path) -> None:
    first = any_chain.write()
    (source / "a").write_bytes(b"changed")
    second = any_chain.write()
    third = first.path.with_name("spare")
    os.rename(first.path, third)
    os.rename(second.path, first.path)
    os.rename(third, second.path)
    for path in (first.path, second.path):
        with pytest.raises(CorruptFile, match="wrong place"):
            open_point(path, any_chain.secret())


def test_a_parent_replaced_by_another_file_is_found(chain: Chain, tmp_path: Path, source: Path) -> None:
    first = chain.write()
    chain.write()
    other = Chain(tmp_path / "other", source)
    foreign = other.write(file_id=first.file_id)
    shutil.copy(foreign.path, first.path)
    with chain.open() as point, pytest.raises(CorruptFile):
        facts_in_point(point)


def test_an_older_state_of_the_same_file_id_is_found(chain: Chain, tmp_path: Path, source: Path) -> None:
    """The same chain, id and number, sealed twice (a copied repository): the child knows which one it was."""
    first = chain.write()
    fork = replace(chain, points=[], root=tmp_path / "fork")
    fork.write(file_id=first.file_id)
    (source / "a").write_bytes(b"changed")
    chain.write()
    shutil.copy(fork.points[0].path, first.path)
    with chain.open() as point, pytest.raises(CorruptFile):
        facts_in_point(point)


def test_a_missing_parent_is_named(chain: Chain) -> None:
    first = chain.write()
    chain.write()
    first.path.unlink()
    with chain.open() as point, pytest.raises(MissingFile) as caught:
        facts_in_point(point)
    assert caught.value.fields["file_id"] == str(first.file_id)


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


def test_a_plain_file_in_the_place_of_an_encrypted_parent_is_found(chain: Chain, tmp_path: Path, source: Path) -> None:
    first = chain.write()
    chain.write()
    plain = Chain(tmp_path / "other", source, (), chain_id=chain.chain_id).write(file_id=first.file_id)
    shutil.copy(plain.path, first.path)
    with chain.open() as point, pytest.raises(CorruptFile):
        facts_in_point(point)


def rewrite_heads(path: Path, change) -> None:
    """What an attacker without the key can do: a head with a right checksum, in both copies."""
    with open(path, "r+b", buffering=0) as file:
        raw = bytearray(read_heads(file.fileno(), path)[0].raw)
        change(raw)
        raw[-32:] = hashlib.sha256(raw[:-32]).digest()
        for offset in (0, HEAD_B_OFFSET):
            os.pwrite(file.fileno(), raw, offset)


def test_a_stripped_slot_is_found(chain: Chain) -> None:
    written = chain.write(passwords=("one", "two"))

    def strip(raw: bytearray) -> None:
        del raw[96 + 304 : 96 + 608]
        raw[11] = 1
        raw[12:16] = len(raw).to_bytes(4, "little")

    rewrite_heads(written.path, strip)
    assert len(inspect(written.path).slots) == 1
    with pytest.raises(CorruptFile, match="head was changed"):
        open_point(written.path, Password(b"one"))


@pytest.mark.parametrize(
    "position", [16, 24, 32, 48, 64, 100], ids=["generation", "sequence", "chain", "file", "commitment", "slot"]
)
def test_a_changed_head_with_a_right_checksum_is_refused(chain: Chain, position: int, tmp_path: Path) -> None:
    written = chain.write()
    outside = tmp_path / "copied out of its folder"
    shutil.copy(written.path, outside)

    def change(raw: bytearray) -> None:
        raw[position] ^= 1

    rewrite_heads(outside, change)
    with pytest.raises((CorruptFile, CannotUnwrap)):
        open_point(outside, chain.secret())
    with pytest.raises((CorruptFile, CannotUnwrap)):
        open_point(outside, FileKey(written.file_key or b""))


def test_a_slot_of_another_file_does_not_open(chain: Chain) -> None:
    first, second = chain.write(), chain.write()
    slot = inspect(first.path).slots[0].raw

    def paste(raw: bytearray) -> None:
        raw[96 : 96 + len(slot)] = slot

    rewrite_heads(second.path, paste)
    with pytest.raises(CannotUnwrap):
        open_point(second.path, chain.secret())


def test_a_costly_derivation_is_refused(chain: Chain) -> None:
    written = chain.write()

    def make_costly(raw: bytearray) -> None:
        raw[96 + 60 : 96 + 64] = (1 << 31).to_bytes(4, "little")

    rewrite_heads(written.path, make_costly)
    assert inspect(written.path).slots[0].kdf_parameters == KdfParameters(1 << 31, 1, 1)
    with pytest.raises(CannotUnwrap):
        open_point(written.path, Password(b"correct horse"))


def test_a_torn_rewrap_opens(chain: Chain, source: Path) -> None:
    """Copy B of the next generation is written, copy A is torn in the middle."""
    written = chain.write()
    with open(written.path, "r+b", buffering=0) as file:
        head = read_heads(file.fileno(), written.path)[0]
        newer = pack_head(replace(head, generation=2), written.file_key)
        os.pwrite(file.fileno(), newer, HEAD_B_OFFSET)
        for torn in (0, 1, 20, 100, len(newer) - 1):
            os.pwrite(file.fileno(), newer[:torn] + head.raw[torn:], 0)
            with chain.open() as point:
                assert facts_in_point(point) == facts_on_disk(source)
                assert point.head.copies_differ
                assert not verify(point, "quick", Recorder()).sound
        os.pwrite(file.fileno(), newer, 0)
    with chain.open() as point:
        assert point.head.generation == 2 and not point.head.copies_differ


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


def test_another_version_is_said(chain: Chain) -> None:
    written = chain.write()

    def raise_version(raw: bytearray) -> None:
        raw[8] = 7

    rewrite_heads(written.path, raise_version)
    with pytest.raises(UnknownVersion) as caught:
        open_point(written.path, chain.secret())
    assert caught.value.fields["version"] == 7


def test_the_signature_names_its_console(chain: Chain) -> None:
    console = Ed25519PrivateKey.generate()
    chain.write(signer=console)
    chain.write()
    with chain.open(0) as point:
        assert point.summary.signer == console.public_key().public_bytes_raw()
    with chain.open(1) as point:
        assert point.summary.signer == b""
        assert "unsigned" in verify(point, "quick", Recorder()).notes[0]


def test_the_seal_names_the_parent(chain: Chain) -> None:
    first, second = chain.write(), chain.write()
    with chain.open() as point:
        assert point.summary.parent_id == first.file_id
        assert point.summary.parent_seal_hash == first.seal_hash
        assert point.seal_hash == second.seal_hash != first.seal_hash


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
