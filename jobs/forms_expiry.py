"""How long a chain is kept that no job goes on with: for ever, or until the end of a day.

What becomes of it then is decided in `jobs.expiring`.
"""

from __future__ import annotations

from datetime import date, datetime

from django import forms
from django.http import QueryDict
from django.utils import timezone

from jobs.expiring import end_of
from jobs.lone_chains import expiry_of

EVER, UNTIL = "ever", "until"
KEEP = ((EVER, "Keep it for ever"), (UNTIL, "Keep it until the end of a day, then delete it"))


class ExpiryForm(forms.Form):
    keep = forms.ChoiceField(label="How long it is kept", choices=KEEP, initial=EVER, widget=forms.RadioSelect)
    until = forms.DateField(
        label="Its last day",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
        help_text="Only where it is to be deleted then. The files go in the night after that day, newest first.",
    )

    def __init__(self, data: QueryDict | None = None, *, expires_at: datetime | None = None) -> None:
        expiry = expiry_of(expires_at, timezone.now())
        initial = {"keep": UNTIL, "until": expiry.last_day.date()} if expiry else {}
        super().__init__(data, initial=initial)

    def clean_until(self) -> date | None:
        until: date | None = self.cleaned_data["until"]
        if self.cleaned_data.get("keep") != UNTIL:
            return None
        if until is None:
            raise forms.ValidationError("Choose the last day on which it is kept.", code="required")
        if until < timezone.localdate():
            raise forms.ValidationError("This day is over: choose one from today on, or delete the chain.", code="past")
        return until

    def expires_at(self) -> datetime | None:
        """Return the instant at which the chain goes; null is never. Of a valid form."""
        until: date | None = self.cleaned_data["until"]
        return end_of(until) if until else None
