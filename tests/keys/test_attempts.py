"""Wrong secrets are counted for each subject, however many web processes count at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.db import connection
from django.utils import timezone

from keys import attempts
from keys.models import VerifyAttempt


def begins(subject: UUID) -> bool:
    try:
        attempts.begin(subject)
    except attempts.TooManyAttempts:
        return False
    finally:
        connection.close()
    return True


@pytest.mark.django_db(transaction=True)
def test_of_guesses_at_the_same_time_fifteen_get_through() -> None:
    subject, other = uuid4(), uuid4()
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(begins, [subject] * 24)) == 15
    assert begins(other)


@pytest.mark.django_db
def test_what_is_long_past_is_forgotten() -> None:
    subject = uuid4()
    attempts.begin(subject)
    VerifyAttempt.objects.update(at=timezone.now() - timedelta(minutes=8))
    attempts.begin(subject)
    assert VerifyAttempt.objects.count() == 1
