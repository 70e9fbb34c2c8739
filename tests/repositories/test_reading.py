"""Opening catalogued points: with the key of the row, and nothing but the file that was catalogued."""

from __future__ import annotations

import pytest

from keys.crypto_sealed import CannotOpenSealed
from keys.models import PasswordVersion
from repositories.engine.errors import CannotUnwrap, CorruptFile, EngineError, MissingFile
from repositories.models import RestorePoint
from repositories.reading import file_key_of, open_point
from tests.repositories.conftest import MakeWriter, Writer

pytestmark = pytest.mark.django_db


def test_reading_a_file_of_a_point(writer: Writer) -> None:
    point = writer.add()
    path = bytes(writer.source).lstrip(b"/") + b"/file"
    with open_point(point) as opened:
        content = b"".join(opened.read(opened.entry(path)))
    assert content == b"content\n" * 100


def test_the_newest_point_opens_the_earlier_ones(writer: Writer) -> None:
    first, second = writer.add(), writer.add()
    with open_point(second) as opened:
        assert opened.earlier_file_keys == {first.uuid: file_key_of(first)}


def test_a_plain_point_needs_no_key(make_writer: MakeWriter) -> None:
    point = make_writer(encrypted=False).add()
    assert file_key_of(point) is None
    with open_point(point) as opened:
        assert not opened.head.encrypted


def test_a_missing_file(writer: Writer) -> None:
    point = writer.add()
    point.path.unlink()
    with pytest.raises(MissingFile):
        open_point(point)


def test_a_point_whose_key_is_not_kept_opens_with_a_slot_of_ours(writer: Writer) -> None:
    point = writer.add()
    point.file_key_sealed = None
    with open_point(point) as opened:
        assert opened.file_key


def test_a_point_whose_key_is_not_kept_and_whose_slots_are_not_ours(writer: Writer) -> None:
    point = writer.add()
    RestorePoint.objects.update(file_key_sealed=None)
    PasswordVersion.objects.update(number=9)
    point.refresh_from_db()
    with pytest.raises(CannotUnwrap):
        open_point(point)


def test_a_point_whose_slots_are_not_ours_opens_through_the_newest(writer: Writer) -> None:
    first, second = writer.add(), writer.add()
    RestorePoint.objects.filter(pk=first.pk).update(file_key_sealed=None)
    PasswordVersion.objects.update(number=9)
    first.refresh_from_db()
    with open_point(first) as opened, open_point(second) as newest:
        assert newest.earlier_file_keys[first.uuid] == opened.file_key


def test_a_key_that_was_tampered_with(writer: Writer) -> None:
    point = writer.add()
    sealed = bytearray(point.file_key_sealed or b"")
    sealed[-1] ^= 1
    point.file_key_sealed = bytes(sealed)
    with pytest.raises(CannotOpenSealed):
        open_point(point)


def test_another_file_in_its_place(writer: Writer) -> None:
    first, second = writer.add(), writer.add()
    second.path.write_bytes(first.path.read_bytes())
    with pytest.raises(EngineError):
        open_point(second)


@pytest.mark.parametrize("column", ["seal_hash", "head_generation"])
def test_a_file_that_opens_but_is_not_the_catalogued_one(writer: Writer, column: str) -> None:
    point = writer.add()
    values = {"seal_hash": bytes(32), "head_generation": point.head_generation + 1}
    RestorePoint.objects.update(**{column: values[column]})
    point.refresh_from_db()
    with pytest.raises(CorruptFile, match="not the one that is known"):
        open_point(point)
