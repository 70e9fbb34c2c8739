"""The job form: parses what was typed and puts it on a job. It knows what belongs together, and no rule of the chain.

Secrets are write-only: their widgets never render a value. Whether directories exist is asked of the proxy by the view;
what the next session writes is asked of `planning` by `job_preview`.
"""

from __future__ import annotations

import posixpath
import zoneinfo
from collections.abc import Mapping
from typing import Any

from django import forms

from backupsite.models import User
from jobs.forms_encryption import NEW_PASSWORD, EncryptionFields, initial_keys
from jobs.forms_schedule import ScheduleFields, initial_times, put_times_on
from jobs.jobs import old_chain_answer
from jobs.models import Job, Level
from keys.models import PasswordRecord
from repositories.engine.errors import BadPattern
from repositories.engine.patterns import Patterns
from repositories.models import Repository

MOST_POINTS = 3650
MOST_LINES = 1000
LONGEST_PATH = 4096


class OldChain:
    """What becomes of the points that were written without encryption."""

    KEEP = "keep"
    DETACH = "detach"
    DELETE = "delete"
    CHOICES = (
        (KEEP, "Keep them until retention removes them"),
        (DETACH, "Detach them now as a chain of their own"),
        (DELETE, "Delete them after the first encrypted full succeeded and was verified"),
    )


# Asked again whenever one of the two changes; without JavaScript the proxy is asked by Preview and by Save.
NO_PLACES = frozenset({"Factory", "localtime"})  # among the names of time zones; what they mean is the machine's to say
ASK_THE_PROXY = {
    "hx-post": "",
    "hx-trigger": "change",
    "hx-target": "#source-notes",
    "hx-swap": "outerHTML",
    "hx-include": "#job-form",
    "hx-vals": '{"action": "check"}',
    "hx-params": "not new_password,new_password_again",
}


def lines_of(text: str) -> list[str]:
    """Return the lines that hold something. Blanks at the ends of a line belong to it: names may begin or end with
    them.
    """
    return [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]


def _lines_field(label: str, *, rows: int, required: bool, help_text: str) -> forms.CharField:
    widget = forms.Textarea(attrs={"rows": rows, "spellcheck": "false", "autocomplete": "off", "class": "mono"})
    return forms.CharField(label=label, required=required, strip=False, widget=widget, help_text=help_text)


class JobForm(ScheduleFields, EncryptionFields):
    name = forms.CharField(label="Name", max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    sources = _lines_field(
        "Directories to back up", rows=4, required=True, help_text="Absolute paths on the proxy, one on each line."
    )
    include = _lines_field(
        "Only these", rows=2, required=False, help_text="Patterns, one on each line, such as *.pdf. Empty: everything."
    )
    exclude = _lines_field(
        "But not these",
        rows=3,
        required=False,
        help_text="Patterns, one on each line, such as *.tmp or .cache/. They win.",
    )
    repository = forms.ModelChoiceField(
        label="Repository", queryset=Repository.objects.none(), empty_label="Choose a repository"
    )
    level = forms.ChoiceField(
        label="Compression",
        choices=Level.choices,
        initial=Level.FAST,
        help_text="Fast is right for nearly everything; strong is several times slower.",
    )
    keep_points = forms.IntegerField(
        label="Restore points to keep",
        min_value=1,
        max_value=MOST_POINTS,
        initial=14,
        help_text="Also the most points of a run: an active full is due then. The older run goes, as a whole, once the "
        "newer one alone has this many points; so up to twice as many exist for a while.",
    )
    old_chain = forms.ChoiceField(choices=OldChain.CHOICES, required=False, widget=forms.RadioSelect)
    version = forms.IntegerField(required=False, widget=forms.HiddenInput)
    digest = forms.CharField(required=False, max_length=128, widget=forms.HiddenInput)
    unchecked = forms.BooleanField(label="Save without checking the directories", required=False)

    def __init__(self, data: Mapping[str, Any] | None = None, *, job: Job, user: User) -> None:
        super().__init__(data, initial=initial_of(job) if job.pk else None, auto_id="id_%s")
        self.job = job
        self.user = user
        for name in ("sources", "repository"):
            self.fields[name].widget.attrs |= ASK_THE_PROXY
        self.repositories = Repository.objects.visible_to(user)
        self.offer_keys(user, job)
        repository = self.fields["repository"]
        assert isinstance(repository, forms.ModelChoiceField)
        repository.queryset = self.repositories
        repository.to_field_name = "uuid"
        zones = zoneinfo.available_timezones() - NO_PLACES | {job.time_zone}
        self.choice("time_zone").choices = [(zone, zone) for zone in sorted(zones)]
        if not job.pk:
            self.initial = {"time_zone": user.time_zone, "schedule_time": "02:00", "old_chain": OldChain.KEEP}
            self._choose_the_only_ones()

    def _choose_the_only_ones(self) -> None:
        """Somebody with one repository or no password yet need not look for them."""
        if len(self.repositories[:2]) == 1:
            self.initial["repository"] = self.repositories[0].uuid
        if not self.records:
            self.initial["password"] = NEW_PASSWORD

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if Job.objects.filter(name=name).exclude(pk=self.job.pk).exists():
            raise forms.ValidationError("Another job has this name.", code="taken")
        return name

    def clean_sources(self) -> list[str]:
        return clean_paths(lines_of(self.cleaned_data["sources"]))

    def clean_include(self) -> list[str]:
        return clean_patterns(lines_of(self.cleaned_data["include"]))

    def clean_exclude(self) -> list[str]:
        return clean_patterns(lines_of(self.cleaned_data["exclude"]))

    def clean(self) -> dict[str, Any]:
        cleaned = self.cleaned_data
        self.clean_keys(cleaned)
        self.clean_times(cleaned)
        return cleaned

    def show_on(self, job: Job) -> Job:
        """Put what an unbound form begins with on a new job, so that the preview fits what is shown."""
        if not job.pk:
            only = next((r for r in self.repositories if r.uuid == self.initial.get("repository")), None)
            if only is not None:
                job.repository = only
            if self.initial.get("password") == NEW_PASSWORD:
                job.password = PasswordRecord(name="the new password")
        return job

    def put_on(self, job: Job) -> Job:
        """Put what was typed and is valid on the job, without saving; what is invalid stays as it was."""
        for name in COPIED:
            if name in self.cleaned_data:
                setattr(job, name, self.cleaned_data[name])
        self.put_keys_on(job)
        put_times_on(job)
        return job


COPIED = (
    "name",
    "sources",
    "include",
    "exclude",
    "repository",
    "level",
    "encryption",
    "encryption_off_reason",
    "strict_custody",
    "ask_password",
    "schedule_kind",
    "schedule_time",
    "schedule_weekdays",
    "schedule_minutes",
    "schedule_days",
    "schedule_cron",
    "misfire",
    "misfire_hours",
    "time_zone",
    "keep_points",
)


def initial_of(job: Job) -> dict[str, Any]:
    """Return what the form shows of a saved job."""
    return {
        **{name: getattr(job, name) for name in COPIED},
        "sources": "\n".join(job.sources),
        "include": "\n".join(job.include),
        "exclude": "\n".join(job.exclude),
        "repository": job.repository.uuid,
        **initial_keys(job),
        **initial_times(job),
        "old_chain": old_chain_answer(job),
        "version": job.version,
    }


def clean_paths(paths: list[str]) -> list[str]:
    """Return absolute paths in their shortest spelling, each once, none inside another."""
    if len(paths) > MOST_LINES:
        raise forms.ValidationError(f"At most {MOST_LINES} directories.")
    clean = list(dict.fromkeys(_clean_path(path) for path in paths))
    for path in clean:
        outer = next((o for o in clean if o != path and path.startswith(o.rstrip("/") + "/")), None)
        if outer:
            raise forms.ValidationError(
                f"{path} lies inside {outer}, which is in the list already: leave it out.", code="nested"
            )
    return clean


def _clean_path(path: str) -> str:
    if not path.startswith("/"):
        raise forms.ValidationError(f"{path} is not an absolute path: begin it with /.", code="relative")
    if len(path.encode()) > LONGEST_PATH or any(not c.isprintable() for c in path):
        raise forms.ValidationError(
            f"{path!a} cannot be written here: name the directory above it.", code="unprintable"
        )
    return "/" + posixpath.normpath(path).lstrip("/")


def clean_patterns(patterns: list[str]) -> list[str]:
    if len(patterns) > MOST_LINES:
        raise forms.ValidationError(f"At most {MOST_LINES} patterns.")
    try:
        Patterns(tuple(patterns))
    except BadPattern as error:
        raise forms.ValidationError(str(error), code=error.code) from error
    return list(dict.fromkeys(patterns))
