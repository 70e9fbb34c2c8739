"""Sessions, what is seen of them while they run, their logs, and the points that readers hold.

State changes are compare-and-set updates in the use-case modules.
"""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q

from backupsite.roles import AnyUser, visible
from jobs.models.due_times import DueTime
from jobs.models.jobs import Job
from jobs.models.proxies import Proxy
from repositories.models import Kind, Repository, RestorePoint


class SessionKind(models.TextChoices):
    BACKUP = "backup", "backup"
    RESTORE = "restore", "restore"
    VERIFY = "verify", "verify"
    PRUNE = "prune", "prune"
    REWRAP = "rewrap", "rewrap"
    KMS_POLL = "kms-poll", "poll of a KMS"


class State(models.TextChoices):
    WAITING = "waiting", "waiting"
    QUEUED = "queued", "queued"
    RUNNING = "running", "running"
    SUCCEEDED = "succeeded", "succeeded"
    WARNING = "warning", "warning"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "cancelled"
    INTERRUPTED = "interrupted", "interrupted"


ACTIVE = (State.WAITING, State.QUEUED, State.RUNNING)
DONE_WELL = (State.SUCCEEDED, State.WARNING)


class SessionQuerySet(models.QuerySet["Session"]):
    def visible_to(self, user: AnyUser) -> SessionQuerySet:
        return visible(self, user)

    def active(self) -> SessionQuerySet:
        return self.filter(state__in=ACTIVE)


class Session(models.Model):
    """One execution. The row is the truth; the queue row is only a wake-up with its id."""

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    kind = models.CharField(max_length=8, choices=SessionKind.choices)
    job = models.ForeignKey(Job, null=True, on_delete=models.SET_NULL, related_name="sessions")
    job_name = models.CharField(max_length=100, blank=True)
    proxy = models.ForeignKey(Proxy, on_delete=models.PROTECT, related_name="sessions")
    repository = models.ForeignKey(Repository, null=True, on_delete=models.SET_NULL, related_name="+")
    due_time = models.OneToOneField(DueTime, null=True, on_delete=models.SET_NULL, related_name="session")
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+")
    priority = models.SmallIntegerField(default=0)

    state = models.CharField(max_length=11, choices=State.choices, default=State.WAITING)
    wait_reason = models.CharField(
        max_length=40, blank=True, help_text="Why it waits: a code, made a sentence by the template."
    )
    wait_params = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)
    queued_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    lease_until = models.DateTimeField(null=True)
    fence = models.PositiveIntegerField(
        default=0, help_text="Grows with every claim: whoever holds an older number is stale."
    )
    cancel_requested_at = models.DateTimeField(null=True)

    # What it was told when it was claimed (no secrets), and for a restore the sealed selection.
    claimed_settings = models.JSONField(default=dict)
    order_sealed = models.BinaryField(null=True)
    source_point = models.ForeignKey(RestorePoint, null=True, on_delete=models.SET_NULL, related_name="+")

    # What the planner said.
    plan_kind = models.CharField(max_length=12, choices=Kind.choices, blank=True)
    plan_reason = models.CharField(max_length=40, blank=True)
    plan_params = models.JSONField(default=dict)

    # How it ended.
    result_code = models.CharField(max_length=60, blank=True)
    result_params = models.JSONField(default=dict)
    result_message = models.TextField(blank=True)
    written_point = models.ForeignKey(RestorePoint, null=True, on_delete=models.SET_NULL, related_name="+")
    files = models.BigIntegerField(default=0)
    source_bytes = models.BigIntegerField(default=0)
    read_bytes = models.BigIntegerField(default=0)
    written_bytes = models.BigIntegerField(default=0)
    warnings = models.PositiveIntegerField(default=0)

    objects = SessionQuerySet.as_manager()

    SEALED = {"order_sealed": lambda row: (row.uuid,)}

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["-created_at", "-id"], name="sessions_newest_first"),
            models.Index(fields=["job", "-created_at"], name="sessions_of_a_job"),
            models.Index(
                fields=["state"], condition=Q(state__in=["waiting", "queued", "running"]), name="sessions_active"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} of {self.job_name}"

    @property
    def is_active(self) -> bool:
        return self.state in ACTIVE


class SessionProgress(models.Model):
    """The narrow row that changes while a session runs; the graph is at most 300 samples of [seconds, read bytes/s,
    written bytes/s].
    """

    session = models.OneToOneField(Session, primary_key=True, on_delete=models.CASCADE, related_name="progress")
    stage = models.CharField(max_length=20, blank=True)
    files_done = models.BigIntegerField(default=0)
    files_total = models.BigIntegerField(null=True)
    bytes_processed = models.BigIntegerField(default=0)
    bytes_total = models.BigIntegerField(null=True)
    bytes_read = models.BigIntegerField(default=0)
    bytes_written = models.BigIntegerField(default=0)
    current_path = models.TextField(blank=True)
    busy_seconds = models.JSONField(default=dict, help_text="Measured busy time of source, proxy and repository.")
    samples = models.JSONField(default=list)
    updated_at = models.DateTimeField(auto_now=True)

    def __str__(self) -> str:
        return f"progress of {self.session_id}"


class LogLevel(models.TextChoices):
    INFO = "info", "information"
    WARNING = "warning", "warning"
    ERROR = "error", "error"


class LogLine(models.Model):
    """One line of a session's log: at most 1,000 a level are kept here; the session counts all warnings."""

    session = models.ForeignKey(Session, on_delete=models.CASCADE, related_name="log_lines")
    at = models.DateTimeField(auto_now_add=True)
    level = models.CharField(max_length=7, choices=LogLevel.choices, default=LogLevel.INFO)
    code = models.CharField(max_length=40, blank=True)
    message = models.TextField()

    class Meta:
        ordering = ["pk"]
        indexes = [models.Index(fields=["session", "level"], name="log_of_a_session")]

    def __str__(self) -> str:
        return self.message


class Pin(models.Model):
    """A reader needs this point (and what it holds on to) until its lease ends: prune passes it over and says who
    holds it.
    """

    point = models.ForeignKey(RestorePoint, on_delete=models.PROTECT, related_name="pins")
    session = models.ForeignKey(Session, on_delete=models.CASCADE, related_name="pins")
    lease_until = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["point", "session"], name="one_pin_a_reader")]

    def __str__(self) -> str:
        return f"{self.session} holds {self.point}"
