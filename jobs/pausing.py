"""Pausing and resuming a job's schedule: what was due until now is settled first, under the rule that held."""

from __future__ import annotations

from django.db import transaction

from jobs.admission import database_now
from jobs.due import record_due_times
from jobs.models import Job


def pause(job: Job) -> bool:
    """Let the schedule start nothing any more; return whether that is new."""
    return _set(job, paused=True)


def resume(job: Job) -> bool:
    """Let the schedule run again from now on: due times of the pause are skipped, not caught up on."""
    return _set(job, paused=False)


@transaction.atomic
def _set(job: Job, *, paused: bool) -> bool:
    row = Job.objects.select_for_update().filter(pk=job.pk).exclude(paused=paused).first()
    if row is None:
        return False
    record_due_times(row, database_now())
    Job.objects.filter(pk=row.pk).update(paused=paused)
    return True
