"""When a job runs, in the job form: parses what was typed. When that is due is decided in `jobs.schedule`."""

from __future__ import annotations

import re
from typing import Any

from django import forms

from jobs.models import Job, Misfire, ScheduleKind
from jobs.schedule import check_cron

WEEKDAYS = (
    ("0", "Monday"),
    ("1", "Tuesday"),
    ("2", "Wednesday"),
    ("3", "Thursday"),
    ("4", "Friday"),
    ("5", "Saturday"),
    ("6", "Sunday"),
)
LONGEST_MINUTES = 7 * 24 * 60
LONGEST_HOURS = 24 * 31
TIMED = (ScheduleKind.HOURLY, ScheduleKind.DAILY, ScheduleKind.WEEKLY, ScheduleKind.MONTHLY)
DAYS_OF_A_MONTH = frozenset(str(day) for day in range(1, 32))
_LAST_DAY = 0


class ScheduleFields(forms.Form):
    schedule_kind = forms.ChoiceField(label="Runs", choices=ScheduleKind.choices, initial=ScheduleKind.DAILY)
    schedule_time = forms.TimeField(
        label="At",
        required=False,
        widget=forms.TimeInput(format="%H:%M", attrs={"type": "time"}),
        help_text="Of an hourly schedule only the minute counts.",
    )
    schedule_weekdays = forms.MultipleChoiceField(
        label="On", choices=WEEKDAYS, required=False, widget=forms.CheckboxSelectMultiple
    )
    time_zone = forms.ChoiceField(label="Time zone")
    schedule_minutes = forms.IntegerField(
        label="Minutes between two runs", required=False, min_value=1, max_value=LONGEST_MINUTES
    )
    schedule_days = forms.CharField(
        label="Days of the month",
        required=False,
        max_length=120,
        help_text="Such as 1, 15, last. A month without that day has it on its last.",
    )
    schedule_cron = forms.CharField(
        label="Cron expression",
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"class": "mono", "spellcheck": "false", "autocomplete": "off"}),
        help_text="Minute, hour, day of the month, month, day of the week: 30 2 * * 1-5",
    )
    misfire = forms.ChoiceField(
        label="If the console was off at that time",
        choices=Misfire.choices,
        initial=Misfire.ONCE,
        required=False,
        help_text="Such due times are shown as missed in any case.",
    )
    misfire_hours = forms.IntegerField(
        label="Too late after so many hours", required=False, min_value=1, max_value=LONGEST_HOURS
    )

    def clean_schedule_weekdays(self) -> list[int]:
        return sorted(int(day) for day in self.cleaned_data["schedule_weekdays"])

    def clean_schedule_days(self) -> list[int]:
        """Return each day once, the last one (0) at the end."""
        words = [word for word in re.split(r"[\s,;]+", self.cleaned_data["schedule_days"].lower()) if word]
        wrong = [word for word in words if word != "last" and word not in DAYS_OF_A_MONTH]
        if wrong:
            raise forms.ValidationError(f"{wrong[0]} is no day of a month: type 1 to 31, or last.", code="day")
        days = {_LAST_DAY if word == "last" else int(word) for word in words}
        return sorted(days, key=lambda day: (day == _LAST_DAY, day))

    def clean_schedule_cron(self) -> str:
        expression = " ".join(self.cleaned_data["schedule_cron"].split())
        if expression:
            try:
                check_cron(expression)
            except ValueError as error:
                raise forms.ValidationError(str(error), code="cron") from error
        return expression

    def clean_misfire(self) -> str:
        return self.cleaned_data["misfire"] or Misfire.ONCE

    def clean_times(self, cleaned: dict[str, Any]) -> None:
        """Report what belongs to the chosen kind and was not given."""
        kind = cleaned.get("schedule_kind")
        needed = {
            ScheduleKind.WEEKLY: ("schedule_weekdays", "Choose at least one day."),
            ScheduleKind.MONTHLY: ("schedule_days", "Name at least one day."),
            ScheduleKind.MINUTES: ("schedule_minutes", "Say how many minutes."),
            ScheduleKind.CRON: ("schedule_cron", "Type an expression."),
        }
        wanted = [needed[kind]] if kind in needed else []
        if kind in TIMED:
            wanted.append(("schedule_time", "Say when."))
        if cleaned.get("misfire") == Misfire.WITHIN and kind != ScheduleKind.MANUAL:
            wanted.append(("misfire_hours", "Say how many hours."))
        for name, message in wanted:
            if not cleaned.get(name) and name not in self.errors:
                self.add_error(name, message)


def put_times_on(job: Job) -> None:
    """Clear on a job what belongs to another kind of schedule."""
    kind = job.schedule_kind
    if kind not in TIMED:
        job.schedule_time = None
    if kind != ScheduleKind.WEEKLY:
        job.schedule_weekdays = []
    if kind != ScheduleKind.MONTHLY:
        job.schedule_days = []
    if kind != ScheduleKind.MINUTES:
        job.schedule_minutes = None
    if kind != ScheduleKind.CRON:
        job.schedule_cron = ""
    if job.misfire != Misfire.WITHIN:
        job.misfire_hours = None


def initial_times(job: Job) -> dict[str, Any]:
    return {
        "schedule_weekdays": [str(day) for day in job.schedule_weekdays],
        "schedule_days": ", ".join(str(day or "last") for day in job.schedule_days or ()),
    }
