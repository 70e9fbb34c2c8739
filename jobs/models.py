"""What happens when: proxies, jobs, the chains they write, due times, sessions and their logs.

State changes are compare-and-set updates in the use-case modules; what the next session writes is decided in
`planning`, when it is due in `schedule`, what stays in `retention`.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q

from backupsite.roles import AnyUser, visible
from keys.models import KmsKey, PasswordRecord
from repositories.models import Chain, Kind, Repository, RestorePoint


class ProxyQuerySet(models.QuerySet["Proxy"]):
    def visible_to(self, user: AnyUser) -> ProxyQuerySet:
        return visible(self, user)


class Proxy(models.Model):
    """A machine that reads, encrypts and moves data: two django-q2 clusters, `cluster` for sessions and
    `cluster`.quick for answers.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=100, unique=True)
    cluster = models.CharField(max_length=50, unique=True)
    workers = models.PositiveSmallIntegerField(default=2, help_text="How many sessions run here at once.")
    seen_at = models.DateTimeField(null=True)

    objects = ProxyQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "proxies"

    def __str__(self) -> str:
        return self.name


class Encryption(models.TextChoices):
    OFF = "off", "Not encrypted"
    PASSWORD = "password", "With a password"
    KMS = "kms", "With a key management server"


class Level(models.TextChoices):
    NONE = "none", "None"
    FAST = "fast", "Fast"
    BALANCED = "balanced", "Balanced"
    STRONG = "strong", "Strong"


class ScheduleKind(models.TextChoices):
    MANUAL = "manual", "Manual"
    MINUTES = "minutes", "Every few minutes"
    HOURLY = "hourly", "Every hour"
    DAILY = "daily", "Every day"
    WEEKLY = "weekly", "Days of the week"
    MONTHLY = "monthly", "Days of the month"
    CRON = "cron", "Cron expression"


class Misfire(models.TextChoices):
    """What happens to a due time that nobody was there for, once somebody is there again."""

    ONCE = "once", "One session, however late"
    WITHIN = "within", "One session, if not too late"
    SKIP = "skip", "None until the next time"


class JobQuerySet(models.QuerySet["Job"]):
    def visible_to(self, user: AnyUser) -> JobQuerySet:
        return visible(self, user)


class Job(models.Model):
    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=100, unique=True)
    proxy = models.ForeignKey(Proxy, on_delete=models.PROTECT, related_name="jobs")
    sources = models.JSONField(help_text="Absolute paths on the proxy.")
    include = models.JSONField(default=list, blank=True)
    exclude = models.JSONField(default=list, blank=True)
    repository = models.ForeignKey(Repository, on_delete=models.PROTECT, related_name="jobs")
    level = models.CharField(max_length=8, choices=Level.choices, default=Level.FAST)
    encryption = models.CharField(max_length=8, choices=Encryption.choices, default=Encryption.PASSWORD)
    password = models.ForeignKey(PasswordRecord, null=True, blank=True, on_delete=models.PROTECT, related_name="jobs")
    kms_key = models.ForeignKey(KmsKey, null=True, blank=True, on_delete=models.PROTECT, related_name="jobs")
    strict_custody = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Of a KMS job: no file key is kept here; whoever reads asks the server.",
    )
    ask_password = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Of a password job: a restore or download asks for the password again.",
    )
    encryption_off_reason = models.CharField(max_length=200, blank=True)
    protection_proof = models.BinaryField(null=True, help_text="The console's proof that it wrote `protection()`.")
    schedule_kind = models.CharField(max_length=8, choices=ScheduleKind.choices, default=ScheduleKind.MANUAL)
    schedule_time = models.TimeField(null=True, blank=True, help_text="Of an hourly schedule only the minute counts.")
    schedule_weekdays = models.JSONField(default=list, blank=True, help_text="0 is Monday.")
    schedule_minutes = models.PositiveSmallIntegerField(null=True, blank=True)
    schedule_days = models.JSONField(null=True, blank=True, help_text="Of the month; 0 is the last.")
    schedule_cron = models.CharField(max_length=200, blank=True, db_default="")
    misfire = models.CharField(
        max_length=6, choices=Misfire.choices, default=Misfire.ONCE, db_default=Misfire.ONCE.value
    )
    misfire_hours = models.PositiveSmallIntegerField(null=True, blank=True)
    time_zone = models.CharField(max_length=64, default="UTC")
    schedule_since = models.DateTimeField(null=True, help_text="Due times at or before this instant are settled.")
    paused = models.BooleanField(default=False)
    keep_points = models.PositiveIntegerField(default=14)
    full_requested = models.BooleanField(default=False)
    new_chain_requested = models.BooleanField(default=False)
    version = models.PositiveIntegerField(
        default=1, help_text="Grows with every save of the form: two editors notice each other."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = JobQuerySet.as_manager()

    VOUCHED = {"protection_proof": lambda row: row.protection()}

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(encryption=Encryption.OFF, password=None, kms_key=None)
                | Q(encryption=Encryption.PASSWORD, password__isnull=False, kms_key=None)
                | Q(encryption=Encryption.KMS, password=None, kms_key__isnull=False),
                name="an_encrypted_job_has_a_key",
            ),
            models.CheckConstraint(
                condition=Q(strict_custody=False) | Q(encryption=Encryption.KMS), name="strict_custody_needs_a_kms"
            ),
            models.CheckConstraint(condition=Q(keep_points__gte=1), name="a_job_keeps_a_point"),
        ]

    def __str__(self) -> str:
        return self.name

    def protection(self) -> dict[str, Any]:
        """Return what the instance key vouches for: a row changed outside the console gets no slot and fails its
        session.
        """
        return {
            "job": str(self.uuid),
            "encryption": self.encryption,
            "password": str(self.password.uuid) if self.password else None,
            **({"kms_key": str(self.kms_key.uuid), "strict_custody": self.strict_custody} if self.kms_key else {}),
            **({"ask_password": True} if self.ask_password else {}),
        }

    def current_chain(self) -> Chain | None:
        """Return the chain that the next session may go on with, if there is one."""
        link = self.job_chains.select_related("chain__repository").filter(state=JobChainState.CURRENT).first()
        return link.chain if link else None


class JobChainState(models.TextChoices):
    CURRENT = "current", "current"
    PREVIOUS = "previous", "previous"  # still under the job's retention
    DETACHED = "detached", "detached"  # restorable, outside the job's retention


class JobChain(models.Model):
    """A chain that a job wrote."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="job_chains")
    chain = models.OneToOneField(Chain, on_delete=models.CASCADE, related_name="job_chain")
    state = models.CharField(max_length=8, choices=JobChainState.choices, default=JobChainState.CURRENT)
    delete_after_full = models.BooleanField(
        default=False,
        help_text="Delete this chain when the first full of its successor has succeeded and was verified.",
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["job"], condition=Q(state="current"), name="one_current_chain_a_job"),
        ]

    def __str__(self) -> str:
        return f"{self.chain} ({self.state})"


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


class QuestionState(models.TextChoices):
    ASKED = "asked", "asked"
    ANSWERED = "answered", "answered"
    FAILED = "failed", "failed"


class Question(models.Model):
    """A quick question to a proxy (list a folder, check a source or a repository). Names are sealed; rows are removed
    when read or old.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    proxy = models.ForeignKey(Proxy, on_delete=models.CASCADE, related_name="questions")
    asked_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE, related_name="+")
    asked_at = models.DateTimeField(auto_now_add=True)
    state = models.CharField(max_length=8, choices=QuestionState.choices, default=QuestionState.ASKED)
    question_sealed = models.BinaryField()
    answer_sealed = models.BinaryField(null=True)

    SEALED = {"question_sealed": lambda row: (row.uuid,), "answer_sealed": lambda row: (row.uuid,)}

    def __str__(self) -> str:
        return f"question to {self.proxy}"
