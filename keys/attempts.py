"""Wrong secrets are counted, per subject and over all web processes: 15 within a minute block that subject for 5.

The subject is a password record, or a backup chain that is to be opened. What is compared with what is left to the
callers.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from keys.models import VerifyAttempt

WRONG_IN_A_MINUTE = 15
BLOCKED_FOR = timedelta(minutes=5)
_COUNTED_WITHIN = timedelta(minutes=1)
_KEPT_FOR = BLOCKED_FOR + 2 * _COUNTED_WITHIN


class TooManyAttempts(Exception):
    """15 wrong secrets within a minute: the subject is blocked for 5 minutes."""


def begin(subject: UUID) -> VerifyAttempt:
    """Count an attempt as wrong before anything is compared, so that parallel guesses don't slip through.

    Whoever was right takes the row away. Raises TooManyAttempts.
    """
    with transaction.atomic():
        _one_at_a_time(subject)
        now = timezone.now()
        if _is_blocked(subject, now):
            raise TooManyAttempts
        VerifyAttempt.objects.filter(subject=subject, at__lt=now - _KEPT_FOR).delete()
        return VerifyAttempt.objects.create(subject=subject)


def _one_at_a_time(subject: UUID) -> None:
    """Until the transaction ends nobody else counts for this subject."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [int.from_bytes(subject.bytes[:8], "big", signed=True)])


def _is_blocked(subject: UUID, now: datetime) -> bool:
    """Blocked while the newest attempts show 15 within one minute, the last of them less than 5 minutes ago."""
    attempts = VerifyAttempt.objects.filter(subject=subject).order_by("-at")
    times = list(attempts.values_list("at", flat=True)[:WRONG_IN_A_MINUTE])
    if len(times) < WRONG_IN_A_MINUTE:
        return False
    return times[0] - times[-1] <= _COUNTED_WITHIN and now - times[0] < BLOCKED_FOR
