"""The catalogue beside real files: registering, adopting, naming what is wrong, deleting without gaps."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction

from keys.crypto_sealed import CannotOpenSealed
from keys.models import PasswordVersion
from repositories import catalogue
from repositories.catalogue import (
    CannotAdopt,
    RepositoryAway,
    StillNeeded,
    adopt,
    check_chain,
    compare,
    delete_chain,
    delete_points,
    finish_deletions,
    points_of,
    register,
)
from repositories.engine.errors import PlaintextRefused
from repositories.models import Chain, Kind, PointState, Repository, RestorePoint, Slot
from repositories.reading import open_point
from tests.repositories.conftest import MakeWriter, Writer

pytestmark = pytest.mark.django_db


# Registering


def test_a_registered_file_opens_with_the_key_of_its_row(writer: Writer) -> None:
    point = writer.add()
    assert [(slot.kind, slot.password) for slot in point.slots.all()] == [("password", writer.version)]
    with open_point(point) as opened:
        assert opened.head.file_id == point.uuid


def test_registering_twice_gives_the_same_row(writer: Writer) -> None:
    sealed = writer.write()
    assert register(writer.chain, sealed) == register(writer.chain, sealed)
    assert (RestorePoint.objects.count(), Slot.objects.count()) == (1, 1)


def test_a_sequence_is_registered_once(writer: Writer) -> None:
    sealed = writer.write()
    register(writer.chain, sealed)
    with pytest.raises(IntegrityError), transaction.atomic():
        register(writer.chain, replace(sealed, file_id=uuid4()))


def test_the_file_key_is_bound_to_its_row(writer: Writer) -> None:
    first, second = writer.add(), writer.add()
    RestorePoint.objects.filter(pk=second.pk).update(file_key_sealed=first.file_key_sealed)
    second.refresh_from_db()
    with pytest.raises(CannotOpenSealed):
        open_point(second)


def test_a_slot_protects_its_password_version(writer: Writer) -> None:
    writer.add()
    with pytest.raises(IntegrityError), transaction.atomic():
        PasswordVersion.objects.all()._raw_delete("default")
        from django.db import connection

        connection.check_constraints()


def test_a_plain_point_has_neither_key_nor_slot(make_writer: MakeWriter) -> None:
    point = make_writer(encrypted=False).add()
    assert point.file_key_sealed is None
    assert not point.slots.exists()


def test_points_of_leaves_out_what_is_going(writer: Writer) -> None:
    first, second = writer.add(), writer.add()
    assert points_of(writer.chain) == [first, second]
    RestorePoint.objects.filter(pk=second.pk).update(state=PointState.DELETING)
    assert points_of(writer.chain) == [first]


# Comparing


def test_a_whole_chain_has_no_damage(writer: Writer) -> None:
    writer.add()
    writer.add()
    assert compare(writer.chain).damage() == ""
    assert check_chain(writer.chain) == ""


def test_what_is_missing_is_named_and_kept(writer: Writer) -> None:
    first, second, third = writer.add(), writer.add(), writer.add()
    second.path.unlink()
    third.path.unlink()
    damage = check_chain(writer.chain)
    assert "point 2" in damage
    assert "3 (" in damage
    assert "missing" in damage
    writer.chain.refresh_from_db()
    assert writer.chain.damage == damage
    assert compare(writer.chain).missing == (second, third)
    assert first.path.exists()


def test_a_chain_whose_folder_is_gone_misses_everything(writer: Writer) -> None:
    point = writer.add()
    shutil.rmtree(writer.chain.folder)
    assert compare(writer.chain).missing == (point,)


def test_a_repository_that_is_away_is_no_damage(writer: Writer) -> None:
    writer.add()
    root = writer.chain.repository.root
    root.rename(root.with_name("unmounted"))
    with pytest.raises(RepositoryAway, match="mount its disk"):
        check_chain(writer.chain)
    writer.chain.refresh_from_db()
    assert writer.chain.damage == ""


def test_damage_that_a_verify_found_stays(writer: Writer) -> None:
    writer.add()
    Chain.objects.update(damage="point 1: block 3 does not verify")
    writer.chain.refresh_from_db()
    assert check_chain(writer.chain) == "point 1: block 3 does not verify"


def plain_file_of(chain: Chain, make_writer: MakeWriter) -> bytes:
    """A first file that claims to belong to the chain and isn't encrypted."""
    forger = make_writer(encrypted=False)
    forger.chain.uuid = chain.uuid
    forger.write()
    return (forger.chain.folder / "1").read_bytes()


def test_foreign_files_are_named(writer: Writer, make_writer: MakeWriter) -> None:
    point, other = writer.add(), make_writer().add()
    plain = plain_file_of(writer.chain, make_writer)
    content = point.path.read_bytes()

    def damage_after(new: bytes) -> str:
        point.path.write_bytes(new)
        return compare(writer.chain).damage()

    for new, expected in (
        (other.path.read_bytes(), "wrong place"),
        (plain, "not encrypted, unlike its chain"),
        (content + b"x", "bytes instead of"),
        (content[:-10], "bytes instead of"),
        (os.urandom(len(content)), "cannot be read"),
        (b"", "cannot be read"),
    ):
        assert expected in damage_after(new), expected
    assert damage_after(content) == ""


def test_an_older_head_is_named(writer: Writer) -> None:
    point = writer.add()
    RestorePoint.objects.update(head_generation=point.head_generation + 1)
    assert "an old copy was put back" in compare(writer.chain).damage()


def test_a_file_between_the_known_ones_is_foreign(writer: Writer) -> None:
    first = writer.add()
    second = writer.add()
    shutil.copy(second.path, second.path.with_name("3"))
    RestorePoint.objects.filter(pk=second.pk).update(sequence=4)
    assert "file 2 is not in the catalogue" in compare(writer.chain).damage()
    assert first.path.exists()


def test_what_is_no_file_of_ours_is_left_alone(writer: Writer) -> None:
    writer.add()
    (writer.chain.folder / "notes.txt").write_text("mine")
    assert compare(writer.chain) == catalogue.Comparison()


# Adopting


def test_a_sealed_file_without_a_row_is_adopted_as_it_was_written(writer: Writer) -> None:
    first = writer.add()
    sealed = writer.write()
    [point] = adopt(writer.chain)
    assert (point.uuid, point.sequence, point.kind, point.parent) == (sealed.file_id, 2, Kind.INCREMENTAL, first)
    assert bytes(point.seal_hash) == sealed.seal_hash
    assert (point.size_bytes, point.files, point.source_bytes) == (sealed.length, sealed.files, sealed.source_bytes)
    assert point.head_generation == sealed.head_generation
    assert [slot.password for slot in point.slots.all()] == [writer.version]
    with open_point(point) as opened:
        assert opened.file_key == sealed.file_key
    assert adopt(writer.chain) == []


def test_plain_files_are_adopted_too(make_writer: MakeWriter) -> None:
    writer = make_writer(encrypted=False)
    sealed = writer.write()
    assert [point.uuid for point in adopt(writer.chain)] == [sealed.file_id]


def test_what_cannot_be_opened_is_not_adopted(writer: Writer, make_writer: MakeWriter) -> None:
    writer.add()
    ahead = writer.chain.folder / "2"
    content = writer.write() and ahead.read_bytes()
    other = make_writer().add().path.read_bytes()
    middle = len(content) // 2
    for new, because in (
        (other, "wrong place"),
        (os.urandom(30_000), "head cannot be read"),
        (content[:middle], "damaged"),
    ):
        ahead.write_bytes(new)
        with pytest.raises(CannotAdopt, match=because):
            adopt(writer.chain)
    assert RestorePoint.objects.filter(chain=writer.chain).count() == 1


def test_a_file_that_was_written_behind_another_point_is_not_adopted(writer: Writer) -> None:
    """The catalogue's newest point was written in one copy of the repository, and this file in another."""
    newest = writer.add()
    writer.write()
    RestorePoint.objects.filter(pk=newest.pk).update(seal_hash=bytes(32))
    with pytest.raises(CannotAdopt, match="the chain has a fork"):
        adopt(writer.chain)
    RestorePoint.objects.filter(pk=newest.pk).update(seal_hash=newest.seal_hash)
    assert len(adopt(writer.chain)) == 1


def test_a_plain_first_file_of_an_encrypted_chain_is_not_adopted(writer: Writer, make_writer: MakeWriter) -> None:
    writer.chain.folder.mkdir()
    (writer.chain.folder / "1").write_bytes(plain_file_of(writer.chain, make_writer))
    with pytest.raises(CannotAdopt, match="does not belong to this chain"):
        adopt(writer.chain)


def test_a_file_for_a_password_that_is_not_ours_is_not_adopted(writer: Writer) -> None:
    writer.add()
    writer.write()
    Slot.objects.update(password=None)
    PasswordVersion.objects.update(number=9)
    with pytest.raises(CannotAdopt, match="none of the keys"):
        adopt(writer.chain)


# Deleting


def test_deleting_removes_files_rows_and_slots_newest_first(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [writer.add(), writer.add(), writer.add()]
    order: list[str] = []
    real = catalogue.delete_file
    monkeypatch.setattr(catalogue, "delete_file", lambda path: (order.append(path.name), real(path)))
    assert delete_points(points) == 3
    assert order == ["3", "2", "1"]
    assert not RestorePoint.objects.exists()
    assert not Slot.objects.exists()
    assert list(writer.chain.folder.iterdir()) == []


def test_what_others_need_is_not_deleted(writer: Writer) -> None:
    first, second = writer.add(), writer.add()
    with pytest.raises(StillNeeded) as refused:
        delete_points([first])
    assert refused.value.by == [second]
    assert points_of(writer.chain) == [first, second]


def test_a_whole_run_goes_and_the_newer_one_stays(writer: Writer) -> None:
    old = [writer.add(), writer.add()]
    full = writer.add(Kind.FULL)
    delete_points(old)
    assert points_of(writer.chain) == [full]
    with open_point(full) as opened:
        assert opened.summary.files == 1
    assert check_chain(writer.chain) == ""


def test_a_deletion_that_was_interrupted_is_finished(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [writer.add(), writer.add()]
    full = writer.add(Kind.FULL)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(catalogue, "delete_file", killed)
        delete_points(points)
    assert points_of(writer.chain) == [full]  # marked: not offered any more
    assert compare(writer.chain).damage() == ""
    assert finish_deletions(writer.chain) == 2
    assert not any(point.path.exists() for point in points)
    assert finish_deletions(writer.chain) == 0


def test_a_file_that_is_gone_already_is_fine(writer: Writer) -> None:
    point = writer.add()
    point.path.unlink()
    assert delete_points([point]) == 1


def test_deleting_a_chain_leaves_no_folder(writer: Writer) -> None:
    writer.add()
    writer.add()
    folder = writer.chain.folder
    assert delete_chain(writer.chain) == 2
    assert not folder.exists()
    assert not Chain.objects.exists()


def test_a_folder_with_files_of_others_stays(writer: Writer) -> None:
    writer.add()
    note = writer.chain.folder / "notes.txt"
    note.write_text("mine")
    delete_chain(writer.chain)
    assert note.exists()


# A repository that takes encrypted files only


def test_a_plain_file_is_never_registered_where_only_encrypted_ones_are_taken(make_writer: MakeWriter) -> None:
    """Not by the session that wrote it, nor found later: it is foreign, and the chain is damaged by its name."""
    writer = make_writer(encrypted=False)
    first = writer.add()
    sealed = writer.write()
    Repository.objects.update(requires_encryption=True)
    chain = Chain.objects.get()
    with pytest.raises(PlaintextRefused):
        register(chain, sealed)
    assert adopt(chain) == []
    assert "file 2 is plain" in check_chain(chain)
    assert register(chain, replace(sealed, file_id=first.uuid)) == first
    assert RestorePoint.objects.count() == 1
    Repository.objects.update(requires_encryption=False)
    assert [point.sequence for point in adopt(Chain.objects.get())] == [2]


def test_an_encrypted_file_is_registered_there(writer: Writer) -> None:
    Repository.objects.update(requires_encryption=True)
    writer.chain.refresh_from_db()
    writer.write()
    assert len(adopt(Chain.objects.get())) == 1
