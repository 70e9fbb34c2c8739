"""At the start: a ring that does not fit the database is refused in one clear sentence, a damaged row only named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command

from keys import ring_check, sealing, signing
from keys.crypto_sealed import KeyRing
from keys.models import PasswordVersion
from keys.sealed_columns import columns
from repositories.reading import seal_file_key
from tests.factories import change_password, make_job, make_password, make_point
from tests.keys.rings import use_ring

pytestmark = pytest.mark.django_db


@pytest.fixture
def own_ring(settings) -> KeyRing:
    return use_ring(settings, KeyRing.new())


def refused() -> str:
    with pytest.raises(CommandError) as error:
        call_command("instance_keys")
    return str(error.value)


def test_finds_the_columns_of_every_app():
    names = {str(column) for column in columns()}
    assert {
        "keys_passwordversion.kek_sealed",
        "keys_signingkey.private_sealed",
        "keys_kmsserver.private_key_sealed",
        "keys_kmsserver.proof",
        "keys_kmskeyversion.proof",
        "keys_recoverykey.proof",
        "repositories_restorepoint.file_key_sealed",
        "jobs_job.protection_proof",
        "jobs_session.order_sealed",
        "jobs_question.question_sealed",
    } <= names


def test_a_sealed_field_is_never_forgotten():
    """Whatever is called sealed or proof is declared, so that the rotation finds it."""
    declared = {(column.model, column.name) for column in columns()}
    named = {
        (model, field.name)
        for model in apps.get_models()
        for field in model._meta.fields
        if field.name.endswith(("_sealed", "proof"))
    }
    assert named == declared


def test_a_ring_that_fits_is_fine(own_ring):
    make_job()
    signing.private_bytes()
    assert ring_check.check_fits() == []
    call_command("instance_keys")


def fill_file_key() -> None:
    seal_file_key(make_point(), bytes(32))


@pytest.mark.parametrize("fill", [make_password, signing.private_bytes, make_job, fill_file_key])
def test_another_ring_is_refused_whatever_the_database_holds(own_ring, settings, fill):
    fill()
    other = use_ring(settings, KeyRing.new())
    said = refused()
    assert "do not fit this database" in said and own_ring.active.hex() in said and other.active.hex() in said


def test_other_bytes_under_the_same_id_are_refused(own_ring, settings):
    make_job()
    use_ring(settings, KeyRing(own_ring.active, {own_ring.active: bytes(32)}))
    assert "is not the one that sealed this database" in refused()


def test_one_damaged_value_beside_others_does_not_stop_the_start(own_ring, capsys):
    version = make_password().newest()
    signing.private_bytes()
    PasswordVersion.objects.filter(pk=version.pk).update(kek_sealed=bytes(version.kek_sealed)[:-1] + b"x")
    call_command("instance_keys")
    assert "keys_passwordversion / kek_sealed" in capsys.readouterr().err


def test_older_values_under_a_missing_key_are_named(own_ring, settings, capsys):
    record = make_password()
    old = own_ring
    both = use_ring(settings, old.with_another().with_newest_active())
    change_password(record)
    use_ring(settings, both.with_active_only())
    call_command("instance_keys")
    said = capsys.readouterr().err
    assert f"1 values of keys_passwordversion.kek_sealed are sealed with the key {old.active.hex()}" in said


def test_a_missing_ring_is_not_made_anew_beside_any_sealed_value(settings, tmp_path):
    use_ring(settings, KeyRing.new())
    signing.private_bytes()
    settings.BACKUPSITE = replace(settings.BACKUPSITE, home=tmp_path, instance_keys=None)
    assert "The instance keys are missing" in refused()
    assert not sealing.ring_path().exists()
