"""Hostile heads: slots taken away, of another file, or for two keys; fields changed under a right checksum."""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from keys import crypto
from keys.crypto_password import KdfParameters
from keys.crypto_recipients import PasswordRecipient
from keys.crypto_slots import WRAPPED_BYTES, _slot_key, read_slots, unwrap, wrap
from repositories.engine.errors import CannotUnwrap, CorruptFile, EngineError, UnknownVersion
from repositories.engine.head import Head, pack_head, read_heads
from repositories.engine.layout import HEAD_B_OFFSET
from repositories.engine.reader import FileKey, Kek, Password, inspect, open_point
from repositories.engine.verify import verify
from tests.engine.lab import Chain, Recorder, facts_in_point, facts_on_disk, recipient, write_tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_tree(tmp_path / "source", {"a": b"content of a" * 20, "folder/b": b"content of b" * 20})
    return tmp_path / "source"


@pytest.fixture
def chain(tmp_path: Path, source: Path) -> Chain:
    return Chain(tmp_path / "repository", source)


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


def test_another_version_is_said(chain: Chain) -> None:
    written = chain.write()

    def raise_version(raw: bytearray) -> None:
        raw[8] = 7

    rewrite_heads(written.path, raise_version)
    with pytest.raises(UnknownVersion) as caught:
        open_point(written.path, chain.secret())
    assert caught.value.fields["version"] == 7


def multiply(a: int, b: int) -> int:
    """In the field of GCM: 128 bits, the highest bit is the coefficient of 1."""
    product = 0
    for bit in range(127, -1, -1):
        if b >> bit & 1:
            product ^= a
        a = a >> 1 ^ (0xE1 << 120 if a & 1 else 0)
    return product


def inverse(a: int) -> int:
    """a to the power of 2^128 - 2."""
    found, power = 1 << 127, a
    for _ in range(127):
        power = multiply(power, power)
        found = multiply(found, power)
    return found


class Gcm:
    """The inside of AES-256-GCM under one key with the nonce of slots."""

    def __init__(self, key: bytes) -> None:
        block = Cipher(AES(key), ECB()).encryptor()
        self.hash_key = int.from_bytes(block.update(bytes(16)), "big")
        self.mask = int.from_bytes(block.update(bytes(12) + b"\0\0\0\1"), "big")

    def tag(self, aad: bytes, sealed: bytes) -> int:
        blocks = aad.ljust(-(-len(aad) // 16) * 16, b"\0") + sealed
        blocks += (8 * len(aad)).to_bytes(8, "big") + (8 * len(sealed)).to_bytes(8, "big")
        total = 0
        for at in range(0, len(blocks), 16):
            total = multiply(total ^ int.from_bytes(blocks[at : at + 16], "big"), self.hash_key)
        return total ^ self.mask


def slot_for_two(one: PasswordRecipient, other: PasswordRecipient, chain_id: UUID, file_id: UUID) -> bytes:
    """A slot whose wrapped key opens under both KEKs, to two different file keys: AES-GCM does not commit to its key.

    The second block of the ciphertext is chosen so that both tags are the same.
    """
    honest = wrap(one, bytes(32), chain_id=chain_id, file_id=file_id)
    header = honest[:-WRAPPED_BYTES]
    first, second = (Gcm(_slot_key(who.kek, header, chain_id, file_id)) for who in (one, other))
    start = os.urandom(16)
    difference = first.tag(header, start + bytes(16)) ^ second.tag(header, start + bytes(16))
    squares = multiply(first.hash_key, first.hash_key) ^ multiply(second.hash_key, second.hash_key)
    sealed = start + multiply(difference, inverse(squares)).to_bytes(16, "big")
    tag = first.tag(header, sealed)
    assert tag == second.tag(header, sealed)
    return header + sealed + tag.to_bytes(16, "big")


def write_heads(path: Path, head: Head, file_key: bytes) -> None:
    raw = pack_head(head, file_key)
    with open(path, "r+b", buffering=0) as file:
        for offset in (0, HEAD_B_OFFSET):
            os.pwrite(file.fileno(), raw, offset)


def refused(path: Path, secret: Kek) -> None:
    with pytest.raises(EngineError) as caught:
        open_point(path, secret)
    assert caught.value.code == "corrupt-file" and caught.value.fields["part"] == "head"
    for word in (str(path), "a key slot opens, but the head was changed", "Restore it from a copy"):
        assert word in str(caught.value)


def test_a_slot_that_opens_under_two_keys_is_found(chain: Chain) -> None:
    """Each of two people would get a file key of their own; the head commits to one, and who gets the other is told."""
    written = chain.write()
    head = inspect(written.path)
    one, other = recipient("one"), recipient("other")
    raw = slot_for_two(one, other, head.chain_id, head.file_id)
    slot = read_slots(raw, 1)[0][0]
    keys = [unwrap(slot, who.kek, chain_id=head.chain_id, file_id=head.file_id) for who in (one, other)]
    assert keys[0] != keys[1]
    for key, refused_one in ((keys[0], other), (keys[1], one)):
        write_heads(written.path, replace(head, slots=(slot,)), key)
        refused(written.path, Kek(refused_one.kek))
    write_heads(written.path, replace(head, slots=(slot, *head.slots)), written.file_key or b"")
    for who in (one, other):
        refused(written.path, Kek(who.kek))
    chain.open().close()


def test_slots_with_different_file_keys_are_found(chain: Chain) -> None:
    """The second slot wraps a key that the head does not commit to."""
    written = chain.write()
    head = inspect(written.path)
    stray = wrap(recipient("other"), crypto.random_key(), chain_id=head.chain_id, file_id=head.file_id)
    write_heads(written.path, replace(head, slots=(*head.slots, *read_slots(stray, 1)[0])), written.file_key or b"")
    chain.open().close()
    refused(written.path, Kek(recipient("other").kek))


@pytest.mark.parametrize("field", ["generation", "sequence"])
def test_numbers_begin_at_one(chain: Chain, field: str) -> None:
    written = chain.write()
    write_heads(written.path, replace(inspect(written.path), **{field: 0}), written.file_key or b"")
    with pytest.raises(CorruptFile, match="head"):
        inspect(written.path)
