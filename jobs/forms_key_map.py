"""What is typed to declare a password lost: its name, so that it is not done by a slip."""

from __future__ import annotations

from django import forms
from django.core.exceptions import ValidationError
from django.http import QueryDict


class LostForm(forms.Form):
    name = forms.CharField(
        label="Type the name of the password",
        max_length=100,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, data: QueryDict | None, *, name: str) -> None:
        super().__init__(data)
        self._name = name

    def clean_name(self) -> str:
        typed: str = self.cleaned_data["name"]
        if typed != self._name:
            raise ValidationError(f"This is not its name: it is called “{self._name}”.")
        return typed
