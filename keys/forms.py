"""Forms of password records. Secrets are write-only: a form that comes back has its password fields empty.

What the bytes of a password are is decided in `crypto_password`; what a record is, in `models`.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.http import QueryDict

from keys.crypto_errors import BadPassword
from keys.crypto_password import password_bytes
from keys.models import PasswordRecord
from keys.strength import Estimate, estimate

SHORTEST = 8
HINT_HELP = "What reminds you, and nobody else, of the password. It stands readable in every backup file."


class TypedPasswordField(forms.CharField):
    """A password as it is typed: not trimmed, and one that can be derived from."""

    def __init__(self, label: str, autocomplete: str = "new-password", help_text: str = "") -> None:
        widget = forms.PasswordInput(attrs={"autocomplete": autocomplete})
        super().__init__(label=label, strip=False, widget=widget, help_text=help_text)

    def validate(self, value: str) -> None:
        super().validate(value)
        if not value:  # where it need not be typed
            return
        try:
            password_bytes(value)
        except BadPassword as error:
            raise ValidationError(str(error)) from error


class NameForm(forms.Form):
    """The name and the hint of a record; `record` is the one that already has the name."""

    name = forms.CharField(label="Name", max_length=100, help_text="For lists and for choosing it in a job.")
    hint = forms.CharField(label="Hint", max_length=200, required=False, help_text=HINT_HELP)

    def __init__(self, data: QueryDict | None = None, *, record: PasswordRecord | None = None) -> None:
        super().__init__(data, initial={"name": record.name, "hint": record.hint} if record else None)
        self.record = record

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        records = PasswordRecord.objects.all()
        others = records.exclude(pk=self.record.pk) if self.record else records
        if others.filter(name__iexact=name).exists():
            raise ValidationError("Another password has this name.")
        return name


class NewPasswordFields(forms.Form):
    """A new password, typed twice, which neither name nor hint gives away; a weak one must be wanted.

    `known` are the words that make it easy to guess, besides the name and the hint that are typed here.
    """

    known: tuple[str, ...] = ()
    estimate: Estimate | None = None  # of what was typed, if it was long enough and typed twice

    password = TypedPasswordField(
        "Password",
        help_text=f"At least {SHORTEST} characters; four random words are better. It is never shown again.",
    )
    again = TypedPasswordField("The same password again")
    weak_ok = forms.BooleanField(label="Take this weak password", required=False)

    def __init__(self, *args: Any, known: tuple[str, ...] = (), **options: Any) -> None:  # noqa: ANN401 - as Form's
        super().__init__(*args, **options)
        self.known = known
        if not self.is_bound:
            del self.fields["weak_ok"]

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        password, again = data.get("password", ""), data.get("again", "")
        if password and again and password != again:
            self.add_error("again", "The two passwords differ.")
        if password and len(password) < SHORTEST:
            self.add_error("password", f"This password has {len(password)} characters: take at least {SHORTEST}.")
        for name in ("name", "hint"):
            if password and gives_away(data.get(name, ""), password):
                self.add_error(name, f"The {name} contains the password: everybody can read it.")
        self._clean_strength(data)
        return data

    def _clean_strength(self, data: dict[str, Any]) -> None:
        """Show the question about a weak password only where it is one."""
        if not self.errors:
            known = (*self.known, data.get("name", ""), data.get("hint", ""))
            self.estimate = estimate(data["password"], known)
        if self.estimate is None or not self.estimate.is_weak:
            del self.fields["weak_ok"]
        elif not data.get("weak_ok"):
            self.add_error("weak_ok", weak_warning(self.estimate))


class NewPasswordForm(NewPasswordFields, NameForm):
    field_order = ("name", "password", "again", "weak_ok", "hint")


class ChangePasswordForm(NewPasswordFields):
    """The next version of a record, with the hint that goes with it."""

    hint = forms.CharField(label="Hint", max_length=200, required=False, help_text=HINT_HELP)
    field_order = ("password", "again", "weak_ok", "hint")


class VerifyForm(forms.Form):
    password = TypedPasswordField("Password", autocomplete="off")


def weak_warning(found: Estimate) -> str:
    return (
        f"This password is weak: guessing it takes {found.crack_time} for somebody with many machines and a copy of a "
        f"backup file. {found.advice} Type a better one, or the same twice again and tick this box."
    )


def gives_away(text: str, password: str) -> bool:
    return _folded(password) in _folded(text)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()
