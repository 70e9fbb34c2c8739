"""What is chosen for a rewrap: whom the points are wrapped for, and which secrets lose their slots."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.http import QueryDict

from jobs.key_map import Use, secrets
from jobs.rewrap_scope import Chosen, Scope, choices, places


class RewrapForm(forms.Form):
    to = forms.ChoiceField(
        label="Wrap the points for",
        help_text="A slot is added where there is none yet. Every active recovery key gets one too.",
    )
    remove = forms.MultipleChoiceField(
        label="Take the slots away from",
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="None is taken away unless it is ticked, and none that the points are wrapped for now.",
    )
    sure = forms.BooleanField(
        label="I have read what will no longer open",
        required=False,
        help_text="Slots that are taken away come back only by another rewrap.",
    )
    digest = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, data: QueryDict | None, *, scope: Scope, uses: list[Use]) -> None:
        super().__init__(data, initial={"to": scope.to, "remove": [f"{r}:{v}" for r, v in scope.remove]})
        self.scope = scope
        self.fields["to"].choices = choices(scope)  # type: ignore[attr-defined]
        here = {chain.pk for chain in scope.chains}
        found = secrets(use for use in uses if use.chain in here)
        named = sorted((secret.name, f"{record}:{version}") for (record, version), secret in found.items())
        self.fields["remove"].choices = [(place, name) for name, place in named]  # type: ignore[attr-defined]

    def chosen(self) -> Chosen:
        """Return what is chosen, or what is to begin with."""
        if not self.is_bound:
            return Chosen(self.scope.to, self.scope.remove)
        data = self.cleaned_data
        return Chosen(data.get("to") or self.scope.to, places(data.get("remove") or ()))

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        if data.get("remove") and not data.get("sure") and "start" in self.data:
            self.add_error("sure", ValidationError("Look at what will no longer open, then tick this."))
        return data
