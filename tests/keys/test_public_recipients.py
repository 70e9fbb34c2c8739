"""The recipients of recovery keys: those that the console vouches for, and none that was put in from outside."""

from __future__ import annotations

import pytest
from django.utils import timezone

from keys.crypto_recovery import new_private
from keys.crypto_sealed import CannotOpenSealed
from keys.models import RecoveryKey
from keys.public_recipients import recovery_recipients
from tests.factories import make_recovery_key

pytestmark = pytest.mark.django_db


def test_every_active_key_is_a_recipient() -> None:
    private = new_private()
    first, _retired = make_recovery_key(private, name="safe"), make_recovery_key(retired_at=timezone.now())
    second = make_recovery_key()
    assert [(r.record, r.public, r.name, r.version) for r in recovery_recipients()] == [
        (first.uuid, private.public(), "safe", 1),
        (second.uuid, bytes(second.public), second.name, 1),
    ]


@pytest.mark.parametrize("retired", [False, True])
@pytest.mark.parametrize("change", ["public", "retired", "proof"])
def test_a_row_changed_from_outside_stops_everything(change: str, retired: bool) -> None:
    make_recovery_key()
    key = make_recovery_key(retired_at=timezone.now() if retired else None)
    changed = {
        "public": {"public": new_private().public()},
        "retired": {"retired_at": None if retired else timezone.now()},
        "proof": {"proof": None},
    }[change]
    RecoveryKey.objects.filter(pk=key.pk).update(**changed)
    with pytest.raises(CannotOpenSealed):
        recovery_recipients()
