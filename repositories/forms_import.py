"""The forms that open a chain: which password is typed, and whether the console keeps a record of it; an answer.

The choice names the slots that stand in the files, so that a person knows which password is meant; what opens is found
by the proxy.
"""

from __future__ import annotations

from uuid import UUID

from django import forms
from django.core.exceptions import ValidationError
from django.http import QueryDict

from keys.crypto_recovery_request import MOST_CHARACTERS
from keys.forms import TypedPasswordField
from keys.models import PasswordRecord
from repositories.foreign import SeenSlot

ANY = ""


class ImportForm(forms.Form):
    """`slots` are the password slots of the chain. Nothing typed means: with what this console has."""

    slot = forms.ChoiceField(label="Which password is it?", required=False, widget=forms.RadioSelect)
    password = TypedPasswordField("Password", autocomplete="off")
    name = forms.CharField(
        label="Keep it as a password record called",
        max_length=100,
        required=False,
        help_text="Then the key map knows what it opens. Leave this empty to keep the keys of these points only.",
    )

    def __init__(self, data: QueryDict | None = None, *, slots: list[SeenSlot]) -> None:
        super().__init__(data, initial={"slot": ANY})
        choices = [(_place(slot), _words(slot)) for slot in slots]
        self.fields["slot"].choices = [(ANY, "Try them from the newest"), *choices]  # type: ignore[attr-defined]

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if name and PasswordRecord.objects.filter(name__iexact=name).exists():
            raise ValidationError("Another password has this name.")
        return name

    def wanted(self) -> tuple[str, int] | None:
        """Return record and version of the slot that was chosen, as a question takes it."""
        record, _, version = self.cleaned_data["slot"].partition(":")
        return (str(UUID(record)), int(version)) if record else None


class RecoveryAnswerForm(forms.Form):
    answer = forms.CharField(
        label="Answer",
        max_length=MOST_CHARACTERS,
        widget=forms.Textarea(attrs={"class": "mono", "rows": 8, "autocomplete": "off", "spellcheck": "false"}),
        help_text="Everything from BEGIN to END.",
    )


def _place(slot: SeenSlot) -> str:
    return f"{slot.record}:{slot.version}"


def _words(slot: SeenSlot) -> str:
    files = f"{slot.files:,} file{'' if slot.files == 1 else 's'}"
    hint = f"Hint: {slot.hint}" if slot.hint else f"No hint, record {str(slot.record)[:8]}"
    return f"{hint} (version {slot.version}, in {files})"
