"""Forms of recovery keys: a public half that is pasted, a name, an answer.

The texts are decided in `crypto_recovery` and `crypto_custody`. A private half that was pasted by mistake is refused
and not given back.
"""

from __future__ import annotations

from django import forms
from django.core.exceptions import ValidationError

from keys.crypto_custody import read_answer
from keys.crypto_errors import CryptoError
from keys.crypto_recovery import read_public
from keys.crypto_sheet import looks_private
from keys.models import RecoveryKey

PRIVATE = "private"
TYPED_PRIVATE_AS_ANSWER = (
    "This is the recovery key itself, which nobody should type here, and not the answer that prove prints. It is not "
    "kept, but it was on its way: add another key, and retire this one."
)
TYPED_PRIVATE = (
    "This is the private half, which nobody but its holder should see. It is not kept here, but it was on its way: "
    "make another pair, and paste its public half."
)


class NotGivenBack:
    """A widget that comes back with what was typed, unless that was a private half."""

    def format_value(self, value: object) -> str | None:
        shown = "" if looks_private(str(value or "")) else value
        given_back: str | None = super().format_value(shown)  # type: ignore[misc]  # of the widget beside it
        return given_back


class PublicHalfInput(NotGivenBack, forms.Textarea):
    pass


class AnswerInput(NotGivenBack, forms.TextInput):
    pass


class NameForm(forms.Form):
    name = forms.CharField(
        label="Name",
        max_length=99,
        help_text="Where the sheet is kept, for instance “safe in Bonn”. It stands readable in every backup file.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )

    def clean_name(self) -> str:
        name = " ".join(str(self.cleaned_data["name"]).split())
        if RecoveryKey.objects.filter(name__iexact=name).exists():
            raise ValidationError("Another recovery key has this name.")
        return name


class AddForm(NameForm):
    public = forms.CharField(
        label="Public half",
        widget=PublicHalfInput(attrs={"class": "mono", "rows": 8, "spellcheck": "false", "autocomplete": "off"}),
        help_text="All lines that recovery-key new printed or wrote, from BEGIN to END.",
    )

    def clean_public(self) -> bytes:
        pasted: str = self.cleaned_data["public"]
        if looks_private(pasted):
            raise ValidationError(TYPED_PRIVATE, code=PRIVATE)
        try:
            public = read_public(pasted)
        except CryptoError as error:
            raise ValidationError(str(error)) from error
        there = RecoveryKey.objects.filter(public=public).first()
        if there is not None:
            raise ValidationError(f"This key is here already: it is called “{there}”.")
        return public


class AnswerForm(forms.Form):
    answer = forms.CharField(
        label="Answer",
        max_length=4000,
        widget=AnswerInput(attrs={"class": "mono", "autocomplete": "off", "spellcheck": "false"}),
        help_text="The eight groups that prove printed. Capitals and blanks do not count.",
    )

    def clean_answer(self) -> bytes:
        typed: str = self.cleaned_data["answer"]
        if looks_private(typed):
            raise ValidationError(TYPED_PRIVATE_AS_ANSWER, code=PRIVATE)
        try:
            return read_answer(typed)
        except CryptoError as error:
            raise ValidationError(str(error)) from error
