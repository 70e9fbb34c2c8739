"""The due times of schedules: each is a row that says what became of it. Who makes and settles them is `jobs.due`."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from jobs.models.jobs import Job


class DueState(models.TextChoices):
    DUE = "due", "due"
    STARTED = "started", "started"  # its session tells how it ended
    MISSED = "missed", "missed"
    SKIPPED = "skipped", "skipped"


class DueTime(models.Model):
    """One due time of a job's schedule, or a gap of several that nobody was there for (`count` of them, up to
    `last_due_at`).
    """

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="due_times")
    due_at = models.DateTimeField()
    last_due_at = models.DateTimeField(null=True)
    count = models.PositiveIntegerField(default=1)
    state = models.CharField(max_length=8, choices=DueState.choices, default=DueState.DUE)
    reason = models.CharField(max_length=40, blank=True)
    params = models.JSONField(default=dict)

    class Meta:
        ordering = ["-due_at"]
        constraints = [models.UniqueConstraint(fields=["job", "due_at"], name="one_row_a_due_time")]
        indexes = [models.Index(fields=["state"], condition=Q(state="due"), name="due_times_open")]

    def __str__(self) -> str:
        return f"{self.job} due at {self.due_at:%Y-%m-%d %H:%M} UTC ({self.state})"
