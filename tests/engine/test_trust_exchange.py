"""Blocks, segments, manifests and whole files in the place of others: of another point, another chain, another time.

What a file proves by itself is found when it is opened or read. What a bare folder cannot show (a newest point that was
taken away, an older state of everything, a fork) is found by whoever knows what was there: expectation.py.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from repositories.engine.backup import Kind, Level
from repositories.engine.chains import scan_chain
from repositories.engine.errors import CorruptFile, EngineError, Forked, MissingFile, PlainRefused, UnknownPoint
from repositories.engine.expectation import (
    Expected,
    check_child,
    check_newest,
    check_point,
    check_unforked,
    expected_of,
)
from repositories.engine.layout import BODY_OFFSET, HEAD_B_OFFSET, RECORD_HEADER_BYTES, ItemKind
from repositories.engine.reader import FileKey, Kek, open_point
from repositories.engine.rewrap import rewrap
from repositories.engine.verify import verify
from tests.engine.lab import Chain, Recorder, facts_in_point, facts_on_disk, recipient, write_tree


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


def says(caught: pytest.ExceptionInfo[EngineError], code: str, path: Path, *words: str) -> None:
    """The error has this code, and its sentence names the file and says what it must."""
    sentence = str(caught.value)
    assert caught.value.code == code
    for word in (str(path), *words):
        assert word in sentence


COPY = "from a copy of the repository"
Places = dict[ItemKind, tuple[int, int]]


def places_of(chain: Chain, number: int) -> Places:
    """Where the record of the last item of each kind lies in a point's file: offset and whole length."""
    with chain.open(number) as point:
        own, said = point.container.index.own, point.container.seal.statement
        trailer = point.container.trailer
        records = zip(own.kinds.tolist(), own.offsets.tolist(), own.lengths.tolist(), strict=True)
        found = {ItemKind(kind): (offset, RECORD_HEADER_BYTES + length) for kind, offset, length in records}
    found[ItemKind.INDEX] = (said.index_offset, RECORD_HEADER_BYTES + said.index_length)
    found[ItemKind.SEAL] = (trailer.seal_offset, RECORD_HEADER_BYTES + trailer.seal_length)
    return found


def graft(target: Path, place: tuple[int, int], donor: bytes, *, with_header: bool) -> None:
    """The donor's record, or what is sealed in it under the header that stands there, in the place of another one."""
    offset, length = place
    if not with_header:
        offset, length, donor = offset + RECORD_HEADER_BYTES, length - RECORD_HEADER_BYTES, donor[RECORD_HEADER_BYTES:]
    whole = target.read_bytes()
    target.write_bytes(whole[:offset] + donor[:length].ljust(length, b"\0") + whole[offset + length :])


def read_everything(chain: Chain, number: int) -> None:
    """Raises what is found; asserts that what is read is whole."""
    with chain.open(number) as point:
        facts = facts_in_point(point)
        for run in point.root.runs:
            point.identity_run(run, {})
        assert facts == facts_on_disk(chain.source)


@pytest.mark.parametrize("with_header", [True, False], ids=["with its header", "under the header there"])
@pytest.mark.parametrize("donor", ["older point", "other chain, same password", "other chain, other password"])
def test_items_of_another_file_are_found(chain: Chain, tmp_path: Path, donor: str, with_header: bool) -> None:
    """Every kind of item: blocks, segments, identities, and the replay of an older keyring, root, index and seal."""
    chain.write(level=Level.NONE)
    chain.write(kind=Kind.FULL, level=Level.NONE)
    other = chain
    if donor != "older point":
        password = "correct horse" if "same" in donor else "other"
        other = Chain(tmp_path / "other", chain.source, (password,))
        other.write(level=Level.NONE)
    target, ours, theirs = chain.points[1].path, places_of(chain, 1), places_of(other, 0)
    whole, strange = target.read_bytes(), other.points[0].path.read_bytes()
    assert set(ours) == set(theirs) >= {ItemKind.BLOCK, ItemKind.SEGMENT, ItemKind.IDENTITIES, ItemKind.ROOT}
    assert ours[ItemKind.BLOCK][1] == theirs[ItemKind.BLOCK][1]
    for kind, place in ours.items():
        offset, length = theirs[kind]
        graft(target, place, strange[offset : offset + length], with_header=with_header)
        with pytest.raises(CorruptFile) as caught:
            read_everything(chain, 1)
        says(caught, "corrupt-file", target, COPY)
        assert str(caught.value.fields["part"]).startswith(kind.name.lower())
        target.write_bytes(whole)
    read_everything(chain, 1)


def test_two_blocks_exchanged_within_a_file_are_found(any_chain: Chain, source: Path) -> None:
    """Blocks of equal length, so that only their numbers differ; with the headers, and without."""
    for name in "xyz":
        (source / name).write_bytes(name.encode() * (4 << 20))
    path = any_chain.write(level=Level.NONE).path
    with any_chain.open() as point:
        own = point.container.index.own
        rows = [row for row in range(len(own)) if own.kinds[row] == ItemKind.BLOCK and own.lengths[row] > 4 << 20]
        (at, other, *_), (length, *_) = own.offsets[rows].tolist(), own.lengths[rows].tolist()
    assert length == int(own.lengths[rows[1]])
    whole = path.read_bytes()
    for skip in (0, RECORD_HEADER_BYTES):
        raw = bytearray(whole)
        one, two = slice(at + skip, at + 16 + length), slice(other + skip, other + 16 + length)
        raw[one], raw[two] = raw[two], raw[one]
        path.write_bytes(raw)
        with any_chain.open() as point:
            with pytest.raises(CorruptFile) as caught:
                facts_in_point(point)
            says(caught, "corrupt-file", path, COPY)
            assert len(verify(point, "full", Recorder()).damages) == 2


@pytest.mark.parametrize("same_chain", [True, False], ids=["older point", "other chain"])
def test_a_head_with_the_body_of_another_file_is_refused(any_chain: Chain, tmp_path: Path, same_chain: bool) -> None:
    first, second = any_chain.write(), any_chain.write(kind=Kind.FULL)
    donor = first.path
    if not same_chain:
        other = replace(any_chain, root=tmp_path / "other", points=[])
        donor = other.write(file_id=second.file_id, sequence=2).path
    head = second.path.read_bytes()[:BODY_OFFSET]
    second.path.write_bytes(head + donor.read_bytes()[BODY_OFFSET:])
    if not same_chain and not any_chain.passwords:
        any_chain.open().close()  # a plain file is anybody's; what is known of it still tells
        with any_chain.open() as point, pytest.raises(CorruptFile) as caught:
            check_point(point, Expected(second.file_id, second.seal_hash, 1))
        says(caught, "corrupt-file", second.path, "its seal is another one", COPY)
        return
    with pytest.raises(CorruptFile) as caught:
        any_chain.open()
    says(caught, "corrupt-file", second.path, "seal", COPY)


def test_an_older_file_under_the_newer_name_is_refused(any_chain: Chain, source: Path) -> None:
    first = any_chain.write()
    (source / "a").write_bytes(b"changed")
    second = any_chain.write()
    shutil.copy(first.path, second.path)
    with pytest.raises(CorruptFile) as caught:
        any_chain.open()
    says(caught, "corrupt-file", second.path, "is point 1", "Put it back")


def test_a_file_of_another_chain_with_the_same_password_is_refused(chain: Chain, tmp_path: Path, source: Path) -> None:
    written = chain.write()
    other = Chain(tmp_path / "other", source).write()
    shutil.copy(other.path, written.path)
    with pytest.raises(CorruptFile) as caught:
        chain.open()
    says(caught, "corrupt-file", written.path, str(other.path.parent.name), "wrong place", "Put it back")


def test_a_forged_copy_of_the_head_does_not_hide_a_wrong_place(chain: Chain) -> None:
    """Copy A is forged to fit the place, copy B is the authentic head of the file that was put there."""
    first, second = chain.write(), chain.write()
    shutil.copy(first.path, second.path)
    forged = bytearray(first.path.read_bytes()[:HEAD_B_OFFSET])
    forged[24] = 2
    rewrite(second.path, bytes(forged), 0)
    with pytest.raises(CorruptFile) as caught:
        chain.open()
    says(caught, "corrupt-file", second.path, "is point 1", "Put it back")


def test_a_forged_copy_of_the_head_does_not_close_a_file(chain: Chain, source: Path) -> None:
    """Copy A says another place than this, and stands in front; copy B is the authentic one."""
    written = chain.write()
    forged = bytearray(written.path.read_bytes()[:HEAD_B_OFFSET])
    forged[16], forged[24] = 9, 7
    rewrite(written.path, bytes(forged), 0)
    with chain.open() as point:
        assert facts_in_point(point) == facts_on_disk(source)
        assert [one.part for one in verify(point, "quick", Recorder()).damages] == ["head"]


def test_a_forged_copy_of_the_head_does_not_hide_a_parent(chain: Chain, source: Path) -> None:
    """Its copy B is whole, so the child finds what it needs."""
    first = chain.write()
    (source / "new").write_bytes(b"new")
    chain.write()
    forged = bytearray(first.path.read_bytes()[:HEAD_B_OFFSET])
    forged[16], forged[48] = 9, forged[48] ^ 1
    rewrite(first.path, bytes(forged), 0)
    with chain.open() as point:
        assert facts_in_point(point) == facts_on_disk(source)


def rewrite(path: Path, raw: bytes, offset: int) -> None:
    """A copy of the head with a right checksum: what anybody can make."""
    used = int.from_bytes(raw[12:16], "little")
    body = raw[: used - 32]
    with open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), body + hashlib.sha256(body).digest(), offset)


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


def test_a_plain_file_in_the_place_of_an_encrypted_parent_is_found(chain: Chain, tmp_path: Path, source: Path) -> None:
    first = chain.write()
    chain.write()
    plain = Chain(tmp_path / "other", source, (), chain_id=chain.chain_id).write(file_id=first.file_id)
    shutil.copy(plain.path, first.path)
    with chain.open() as point, pytest.raises(CorruptFile):
        facts_in_point(point)


def test_the_seal_names_the_parent(chain: Chain) -> None:
    first, second = chain.write(), chain.write()
    with chain.open() as point:
        assert point.summary.parent_id == first.file_id
        assert point.summary.parent_seal_hash == first.seal_hash
        assert point.seal_hash == second.seal_hash != first.seal_hash


def test_another_state_of_the_newest_point_is_known_by_its_seal(any_chain: Chain, tmp_path: Path, source: Path) -> None:
    """It opens: a point of this chain under this number, written by somebody with the key. The catalogue knows."""
    any_chain.write()
    fork = replace(any_chain, points=list(any_chain.points), root=tmp_path / "fork")
    shutil.copytree(any_chain.root, fork.root)
    fork.points[0] = replace(fork.points[0], path=fork.folder / "1")
    known = any_chain.write()
    other = fork.write(file_id=known.file_id, job_name="another job")
    shutil.copy(other.path, known.path)
    with any_chain.open(secret=other.file_key and FileKey(other.file_key)) as point:
        assert facts_in_point(point) == facts_on_disk(source)
        with pytest.raises(CorruptFile) as caught:
            check_point(point, Expected(known.file_id, known.seal_hash, 1))
    says(caught, "corrupt-file", known.path, "its seal is another one", COPY)


def newest_of(chain: Chain) -> Expected:
    with chain.open() as point:
        return expected_of(point)


def test_what_is_as_it_was_known_is_fine(any_chain: Chain) -> None:
    for _ in range(2):
        any_chain.write()
    known = newest_of(any_chain)
    check_newest(any_chain.root, scan_chain(any_chain.folder), known)
    with any_chain.open() as point, any_chain.open(0) as parent:
        check_point(point, known)
        check_child(point, expected_of(parent))
        check_unforked([parent, point])


def test_a_plain_point_in_the_place_of_the_newest_is_refused(chain: Chain, tmp_path: Path, source: Path) -> None:
    chain.write()
    second, known = chain.write(), newest_of(chain)
    plain = Chain(tmp_path / "other", source, (), chain_id=chain.chain_id)
    shutil.copy(plain.write(file_id=second.file_id, sequence=2).path, second.path)
    for secret in (chain.secret(), FileKey(second.file_key or b"")):
        with pytest.raises(PlainRefused) as caught:
            open_point(second.path, secret)
        says(caught, "plain-refused", second.path, "not encrypted", "Open it without a key only if")
    with pytest.raises(CorruptFile) as foreign:
        check_newest(chain.root, scan_chain(chain.folder), known)
    says(foreign, "corrupt-file", second.path, "not encrypted, unlike its chain", COPY)


def test_a_plain_point_as_the_next_number_is_refused(chain: Chain, tmp_path: Path, source: Path) -> None:
    first, known = chain.write(), newest_of(chain)
    plain = Chain(tmp_path / "other", source, (), chain_id=chain.chain_id).write(sequence=2)
    added = first.path.with_name("2")
    shutil.copy(plain.path, added)
    with pytest.raises(PlainRefused) as caught:
        open_point(added, chain.secret())
    says(caught, "plain-refused", added, "not encrypted")
    chain.points.append(replace(plain, path=added))
    with pytest.raises(PlainRefused):
        chain.write()
    assert chain.names() == ["1", "2"], "nothing is written behind it"
    with pytest.raises(UnknownPoint) as ahead:
        check_newest(chain.root, scan_chain(chain.folder), known)
    says(ahead, "unknown-point", added, "newer than point 1", "Rescan the repository")


def test_a_withheld_newest_point(any_chain: Chain, source: Path) -> None:
    """Everything before it opens and is sound: the folder alone cannot show it, what is known of the chain can."""
    first = any_chain.write()
    truth = facts_on_disk(source)
    (source / "a").write_bytes(b"changed")
    second, known = any_chain.write(), newest_of(any_chain)
    second.path.unlink()
    with any_chain.open(0) as point:
        assert facts_in_point(point) == truth and verify(point, "full", Recorder()).sound
    with pytest.raises(MissingFile) as caught:
        check_newest(any_chain.root, scan_chain(any_chain.folder), known)
    says(caught, "missing-file", second.path, "ends with point 1", "older state of the repository", COPY)
    first.path.unlink()
    with pytest.raises(MissingFile) as caught:
        check_newest(any_chain.root, scan_chain(any_chain.folder), known)
    says(caught, "missing-file", second.path, "has no point")


def test_a_point_that_is_not_known_yet(any_chain: Chain) -> None:
    any_chain.write()
    known, second = newest_of(any_chain), any_chain.write()
    with pytest.raises(UnknownPoint) as caught:
        check_newest(any_chain.root, scan_chain(any_chain.folder), known)
    says(caught, "unknown-point", second.path, "newer than point 1", "Rescan the repository; nothing is written before")


def test_a_fork_is_shown(any_chain: Chain, tmp_path: Path) -> None:
    """Two copies of a repository were written; the file of one comes to the other as its next number."""
    first = any_chain.write()
    copied = Chain(tmp_path / "copy", any_chain.source, any_chain.passwords, any_chain.chain_id, [first])
    shutil.copytree(any_chain.root, copied.root)
    copied.points = [replace(first, path=copied.folder / "1")]
    second, known = any_chain.write(), newest_of(any_chain)
    stray = copied.write(sequence=3)
    shutil.copy(stray.path, second.path.with_name("3"))
    any_chain.points.append(replace(stray, path=second.path.with_name("3")))
    with any_chain.open(0) as parent, any_chain.open(1) as child, any_chain.open(2) as other:
        check_child(child, expected_of(parent))
        with pytest.raises(Forked) as caught:
            check_child(other, known)
        says(caught, "forked-chain", other.path, "behind point 2", "fork", "Move the file away")
        check_unforked([parent, child])
        with pytest.raises(Forked) as both:
            check_unforked([parent, child, other])
        says(both, "forked-chain", other.path, str(child.path), "the same point", "Move one of them away")


def test_two_first_points_are_a_fork_too(any_chain: Chain, tmp_path: Path) -> None:
    any_chain.write()
    again = replace(any_chain, points=[], root=tmp_path / "again")
    again.write()
    with any_chain.open() as one, again.open() as other, pytest.raises(Forked):
        check_unforked([one, other])


def put_back_old_heads(path: Path, raw: bytes, offsets: tuple[int, ...]) -> None:
    with open(path, "r+b", buffering=0) as file:
        for offset in offsets:
            os.pwrite(file.fileno(), raw, offset)


def test_an_old_generation_of_the_head_put_back(chain: Chain, source: Path) -> None:
    """With both old copies the secret that was taken away opens again: only who knows the generation can tell."""
    path = chain.write(passwords=("old",)).path
    old = path.read_bytes()[:HEAD_B_OFFSET]
    record = recipient("old")
    rewrap(path, Kek(record.kek), add=(recipient(),), remove=((record.record, record.version),))
    known = newest_of(chain)
    assert known.head_generation == 2
    put_back_old_heads(path, old, (0,))
    with chain.open() as point:
        check_point(point, known)
        assert [one.part for one in verify(point, "quick", Recorder()).damages] == ["head"]
    put_back_old_heads(path, old, (0, HEAD_B_OFFSET))
    with open_point(path, Kek(record.kek)) as point:
        assert facts_in_point(point) == facts_on_disk(source)
        with pytest.raises(CorruptFile) as caught:
            check_point(point, known)
    says(caught, "corrupt-file", path, "generation 1, and 2 was seen before", "old copy was put back", COPY)
    with pytest.raises(CorruptFile) as caught:
        check_newest(chain.root, scan_chain(chain.folder), known)
    says(caught, "corrupt-file", path, "old copy was put back")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda known: replace(known, length=known.length + 1), "bytes instead of"),
        (lambda known: replace(known, sequence=7), "it is point 1"),
        (lambda known: replace(known, file_id=known.chain_id), "it is another file"),
        (lambda known: replace(known, chain_id=known.file_id), "it belongs to another chain"),
        (lambda known: replace(known, encrypted=False), "it is encrypted, unlike its chain"),
        (lambda known: replace(known, seal_hash=bytes(32)), "its seal is another one"),
        (lambda known: replace(known, head_generation=2), "generation 1, and 2 was seen before"),
    ],
    ids=["length", "sequence", "file", "chain", "encryption", "seal", "generation"],
)
def test_each_thing_that_is_known_is_compared(chain: Chain, change: Callable[[Expected], Expected], word: str) -> None:
    path, known = chain.write().path, newest_of(chain)
    with chain.open() as point, pytest.raises(CorruptFile) as caught:
        check_point(point, change(known))
    says(caught, "corrupt-file", path, word, COPY)
