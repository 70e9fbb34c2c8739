"""Forms of accounts, roles, the profile and the audit trail's filters.

What is allowed is decided in `people` and `roles`.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib.auth import password_validation
from django.core.exceptions import ValidationError
from django.http import QueryDict

from backupsite.models import Role, Severity, User


def new_password_field(label: str = "Password") -> forms.CharField:
    return forms.CharField(
        label=label,
        strip=False,
        max_length=1000,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text="At least 10 characters, and not one of the common ones.",
    )


def again_field() -> forms.CharField:
    return forms.CharField(
        label="The same password again",
        strip=False,
        max_length=1000,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )


def time_zone_field() -> forms.ChoiceField:
    zones = sorted(zone for zone in zoneinfo.available_timezones() if "/" in zone or zone == "UTC")
    return forms.ChoiceField(
        label="Time zone",
        choices=[(zone, zone.replace("_", " ")) for zone in zones],
        initial="UTC",
        help_text="All times of the console are shown in it.",
    )


def roles_field() -> forms.MultipleChoiceField:
    return forms.MultipleChoiceField(
        label="Roles",
        choices=Role.choices,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Without a role the account can sign in and see nothing.",
    )


class PasswordForm(forms.Form):
    """A new password for `user`, typed twice and held against the rules of the site."""

    password = new_password_field()
    again = again_field()

    def __init__(self, data: QueryDict | None = None, *, user: User | None = None) -> None:
        super().__init__(data)
        self.user = user

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        password, again = data.get("password"), data.get("again")
        if password and again and password != again:
            self.add_error("again", "The two passwords differ.")
        elif password:
            try:
                password_validation.validate_password(password, self.account())
            except ValidationError as error:
                self.add_error("password", error)
        return data

    def account(self) -> User | None:
        """Return whose password it is: it must not be like the name."""
        return self.user


class NewAccountForm(PasswordForm):
    username = forms.CharField(label="Name", max_length=150, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    time_zone = time_zone_field()
    field_order: Sequence[str] = ("username", "password", "again", "time_zone")

    def clean_username(self) -> str:
        name: str = self.cleaned_data["username"]
        User.username_validator(name)
        if User.objects.filter(username__iexact=name).exists():
            raise ValidationError("Somebody has this name already.")
        return name

    def account(self) -> User | None:
        return User(username=self.cleaned_data.get("username", ""))


class FirstAdminForm(NewAccountForm):
    username = forms.CharField(label="Your name for signing in", max_length=150)


class NewUserForm(NewAccountForm):
    roles = roles_field()
    field_order = ("username", "password", "again", "roles", "time_zone")


class RolesForm(forms.Form):
    roles = roles_field()


class OwnPasswordForm(PasswordForm):
    current = forms.CharField(
        label="Current password",
        strip=False,
        max_length=1000,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )
    field_order = ("current", "password", "again")

    def clean_current(self) -> str:
        current: str = self.cleaned_data["current"]
        if self.user is None or not self.user.check_password(current):
            raise ValidationError("This is not your current password.")
        return current


class ProfileForm(forms.Form):
    time_zone = time_zone_field()


class AuditFilterForm(forms.Form):
    """The filters of the audit trail; they live in the address, so that a filtered list can be sent on."""

    user = forms.CharField(label="Person", required=False, max_length=150)
    action = forms.CharField(label="What was done", required=False, max_length=64)
    object = forms.CharField(label="To what", required=False, max_length=200)
    severity = forms.ChoiceField(label="Severity", required=False, choices=[("", "any"), *Severity.choices])
