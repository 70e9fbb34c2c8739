"""Sealed values and vouched rows: they open in their place under their ring, and nowhere else; the ring's file."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from keys import sealing
from keys.crypto_sealed import HEAD_BYTES, CannotOpenSealed, KeyRing, check_vouched, seal, unseal, vouch
from keys.ring_file import parse_ring
from tests.factories import make_job, make_password

PLACE = ("keys_passwordversion", "kek_sealed", "7", "record", "1")
SECRET = bytes(range(32))


def test_a_value_opens_in_its_place() -> None:
    ring = KeyRing.new()
    assert unseal(ring, seal(ring, SECRET, PLACE), PLACE) == SECRET


def test_two_seals_of_one_value_have_nothing_in_common() -> None:
    ring = KeyRing.new()
    one, two = seal(ring, SECRET, PLACE), seal(ring, SECRET, PLACE)
    assert one[HEAD_BYTES:] != two[HEAD_BYTES:] and one[9:HEAD_BYTES] != two[9:HEAD_BYTES]
    assert SECRET not in one


@pytest.mark.parametrize("part", range(len(PLACE)))
def test_a_moved_value_does_not_open(part: int) -> None:
    ring = KeyRing.new()
    elsewhere = tuple(name + "x" if number == part else name for number, name in enumerate(PLACE))
    with pytest.raises(CannotOpenSealed, match="changed or moved"):
        unseal(ring, seal(ring, SECRET, PLACE), elsewhere)


def test_parts_of_a_place_cannot_be_shifted_into_each_other() -> None:
    ring = KeyRing.new()
    with pytest.raises(CannotOpenSealed):
        unseal(ring, seal(ring, SECRET, ("ab", "c")), ("a", "bc"))


def test_another_ring_does_not_open() -> None:
    with pytest.raises(CannotOpenSealed, match="not on the key ring"):
        unseal(KeyRing.new(), seal(KeyRing.new(), SECRET, PLACE), PLACE)


def test_another_key_of_the_same_id_does_not_open() -> None:
    ring, other = KeyRing.new(), KeyRing.new()
    forged = KeyRing(ring.active, {ring.active: other.keys[other.active]})
    with pytest.raises(CannotOpenSealed):
        unseal(forged, seal(ring, SECRET, PLACE), PLACE)


def test_every_flipped_byte_is_noticed() -> None:
    ring = KeyRing.new()
    sealed = seal(ring, SECRET, PLACE)
    for number in range(len(sealed)):
        damaged = sealed[:number] + bytes([sealed[number] ^ 1]) + sealed[number + 1 :]
        with pytest.raises(CannotOpenSealed):
            unseal(ring, damaged, PLACE)


def test_every_shorter_value_is_noticed() -> None:
    ring = KeyRing.new()
    sealed = seal(ring, SECRET, PLACE)
    for length in range(len(sealed)):
        with pytest.raises(CannotOpenSealed):
            unseal(ring, sealed[:length], PLACE)


def test_an_older_key_of_the_ring_still_opens_while_the_active_one_seals() -> None:
    old, new = KeyRing.new(), KeyRing.new()
    both = KeyRing(new.active, {**old.keys, **new.keys})
    assert unseal(both, seal(old, SECRET, PLACE), PLACE) == SECRET
    assert seal(both, SECRET, PLACE)[1:9] == new.active
    with pytest.raises(CannotOpenSealed):
        unseal(old, seal(both, SECRET, PLACE), PLACE)


def test_a_ring_shows_no_keys() -> None:
    ring = KeyRing.new()
    assert repr(ring.keys[ring.active])[2:-1] not in repr(ring)
    assert "keys" not in repr(ring)


@pytest.mark.parametrize("change", [{"active": b"unknown!"}, {"keys": {b"short": b""}}])
def test_a_ring_without_its_active_key_or_with_wrong_lengths_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="instance key"):
        replace(KeyRing.new(), **change)


def test_a_vouched_statement_holds_for_its_place_and_words_only() -> None:
    ring = KeyRing.new()
    proof = vouch(ring, b"encrypted", PLACE)
    check_vouched(ring, proof, b"encrypted", PLACE)
    for statement, place, keys in (
        (b"plain", PLACE, ring),
        (b"encrypted", (*PLACE, "x"), ring),
        (b"encrypted", PLACE, KeyRing.new()),
    ):
        with pytest.raises(CannotOpenSealed):
            check_vouched(keys, proof, statement, place)


def test_every_flipped_byte_of_a_proof_is_noticed_and_so_is_none_at_all() -> None:
    ring = KeyRing.new()
    proof = vouch(ring, b"encrypted", PLACE)
    damaged = [proof[:n] + bytes([proof[n] ^ 1]) + proof[n + 1 :] for n in range(len(proof))]
    for forged in [b"", proof[:-1], proof + b"x", *damaged]:
        with pytest.raises(CannotOpenSealed):
            check_vouched(ring, forged, b"encrypted", PLACE)


def test_a_proof_is_no_sealed_value_and_a_sealed_value_no_proof() -> None:
    ring = KeyRing.new()
    with pytest.raises(CannotOpenSealed):
        unseal(ring, vouch(ring, b"statement", PLACE), PLACE)
    with pytest.raises(CannotOpenSealed):
        check_vouched(ring, seal(ring, b"statement", PLACE), b"statement", PLACE)


@pytest.mark.django_db
def test_a_kek_copied_to_another_row_does_not_open() -> None:
    mine, theirs = make_password("one secret").newest(), make_password("another secret").newest()
    theirs.kek_sealed = mine.kek_sealed
    with pytest.raises(CannotOpenSealed):
        sealing.unseal_for(theirs, "kek_sealed")


@pytest.mark.django_db
def test_a_job_row_changed_outside_the_console_is_not_vouched_for() -> None:
    job = make_job()
    sealing.check_vouched_row(job, "protection_proof")
    job.password = make_password()
    with pytest.raises(CannotOpenSealed, match="changed outside"):
        sealing.check_vouched_row(job, "protection_proof")
    job.protection_proof = None
    with pytest.raises(CannotOpenSealed, match="not vouched"):
        sealing.check_vouched_row(job, "protection_proof")


@pytest.fixture
def ring_file(tmp_path: Path, settings, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "instance-keys"
    monkeypatch.setattr(sealing, "ring_path", lambda: path)
    settings.BACKUPSITE = replace(settings.BACKUPSITE, instance_keys=None)
    return path


def test_a_ring_file_is_made_once_and_for_its_owner_only(ring_file: Path) -> None:
    assert not sealing.ring_exists()
    assert sealing.ensure_ring()
    assert ring_file.stat().st_mode & 0o777 == 0o600
    content = ring_file.read_text()
    assert not sealing.ensure_ring() and ring_file.read_text() == content
    assert sealing.ring().active in sealing.ring().keys
    assert [path.name for path in ring_file.parent.iterdir()] == ["instance-keys"]


def test_a_ring_is_made_beside_what_a_killed_start_of_the_same_process_id_left(ring_file: Path) -> None:
    ring_file.with_name(f".{ring_file.name}.{os.getpid()}").write_text("half of")
    assert sealing.ensure_ring() and sealing.ring()


def test_a_missing_ring_is_named(ring_file: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=str(ring_file)):
        sealing.ring()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"active": "zz", "keys": {}}', '{"active": 1, "keys": []}'])
def test_a_broken_ring_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="not a key ring"):
        parse_ring(text, "the test")


def test_a_broken_ring_does_not_show_its_keys() -> None:
    key = base64.b64encode(SECRET + b"one byte too many").decode()
    with pytest.raises(ImproperlyConfigured) as refused:
        parse_ring(json.dumps({"active": "00" * 8, "keys": {"00" * 8: key}}), "the test")
    assert key not in str(refused.value) and refused.value.__cause__ is None
