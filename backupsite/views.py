"""The pages of the site itself: people and roles, the own profile, the first administrator, the installation's facts.

The audit trail has its views in `views_audit`. Rules are decided in `people` and `first_admin`.
"""

from __future__ import annotations

import sys
import tomllib
from functools import cache
from typing import Any

import django
from allauth.core import ratelimit
from django.conf import settings as site_settings
from django.contrib import messages
from django.contrib.auth import login, update_session_auth_hash
from django.contrib.auth.decorators import login_not_required
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from backupsite import audit, first_admin, people
from backupsite.forms import FirstAdminForm, NewUserForm, OwnPasswordForm, PasswordForm, ProfileForm, RolesForm
from backupsite.models import Role, Severity, User
from backupsite.responses import no_store
from backupsite.roles import ROLE_RIGHTS, Right, requires


@requires(Right.PEOPLE)
@require_safe
def user_list(request: HttpRequest) -> HttpResponse:
    users = people.users_visible_to(request.user).prefetch_related("grants").order_by("-is_active", "username")
    return render(request, "backupsite/user_list.html", {"users": users, "role_table": role_table()})


def role_table() -> list[tuple[str, list[bool]]]:
    """Return what each role may do, a column for each right, as the table that is enforced says."""
    return [(role.label, [right in ROLE_RIGHTS[role] for right in Right]) for role in Role]


@requires(Right.PEOPLE)
@require_http_methods(["GET", "HEAD", "POST"])
def user_new(request: HttpRequest) -> HttpResponse:
    form = NewUserForm(_posted(request))
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        with transaction.atomic():
            user = people.create_user(data["username"], data["password"], data["roles"], data["time_zone"])
            audit.record(request, "user created", user, after={"roles": data["roles"]}, severity=Severity.NOTICE)
        messages.success(request, f"{user} can sign in now.")
        return redirect("user_detail", user.pk)
    return no_store(render(request, "backupsite/user_new.html", {"form": form}))


@requires(Right.PEOPLE)
@require_http_methods(["GET", "HEAD", "POST"])
def user_detail(request: HttpRequest, pk: int) -> HttpResponse:
    """Show an account; POST changes its roles."""
    user = get_object_or_404(people.users_visible_to(request.user), pk=pk)
    before = people.roles_of(user)
    form = RolesForm(_posted(request), initial={"roles": before})
    if request.method == "POST" and form.is_valid():
        try:
            _change_roles(request, user, before, form.cleaned_data["roles"])
        except people.LastAdministrator as error:
            form.add_error("roles", str(error))
        else:
            return redirect("user_detail", user.pk)
    return render(request, "backupsite/user_detail.html", {"person": user, "form": form})


def _change_roles(request: HttpRequest, user: User, before: list[str], roles: list[str]) -> None:
    with transaction.atomic():
        people.change_roles(user, roles)
        audit.record(
            request,
            "roles changed",
            user,
            before={"roles": before},
            after={"roles": people.roles_of(user)},
            severity=Severity.HIGH,
        )
    messages.success(request, f"The roles of {user} are saved.")


@requires(Right.PEOPLE)
@require_http_methods(["GET", "HEAD", "POST"])
def user_password(request: HttpRequest, pk: int) -> HttpResponse:
    user = get_object_or_404(people.users_visible_to(request.user), pk=pk)
    form = PasswordForm(_posted(request), user=user)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            people.set_password(user, form.cleaned_data["password"])
            audit.record(request, "password of a user set", user, severity=Severity.HIGH)
        if user.pk == request.user.pk:
            update_session_auth_hash(request, user)
        messages.success(request, f"{user} has a new password, and is signed out everywhere else.")
        return redirect("user_detail", user.pk)
    return no_store(render(request, "backupsite/user_password.html", {"person": user, "form": form}))


@requires(Right.PEOPLE)
@require_http_methods(["GET", "HEAD", "POST"])
def user_deactivate(request: HttpRequest, pk: int) -> HttpResponse:
    """Ask on a page of its own; POST closes the account."""
    user = get_object_or_404(people.users_visible_to(request.user).filter(is_active=True), pk=pk)
    refusal = ""
    if request.method == "POST":
        try:
            with transaction.atomic():
                people.change_active(user, False)
                audit.record(request, "user deactivated", user, severity=Severity.HIGH)
        except people.LastAdministrator as error:
            refusal = str(error)
        else:
            messages.success(request, f"{user} is deactivated and can no longer sign in.")
            return redirect("user_list")
    return render(request, "backupsite/user_deactivate.html", {"person": user, "refusal": refusal})


@requires(Right.PEOPLE)
@require_POST
def user_activate(request: HttpRequest, pk: int) -> HttpResponse:
    user = get_object_or_404(people.users_visible_to(request.user).filter(is_active=False), pk=pk)
    with transaction.atomic():
        people.change_active(user, True)
        audit.record(request, "user activated", user, severity=Severity.HIGH)
    messages.success(request, f"{user} can sign in again.")
    return redirect("user_detail", user.pk)


@require_http_methods(["GET", "HEAD", "POST"])
def profile(request: HttpRequest) -> HttpResponse:
    """One's own page: open to everybody who is signed in, also without a role."""
    user = _me(request)
    form = ProfileForm(_posted(request), initial={"time_zone": user.time_zone})
    if request.method == "POST" and form.is_valid():
        before, after = user.time_zone, form.cleaned_data["time_zone"]
        with transaction.atomic():
            User.objects.filter(pk=user.pk).update(time_zone=after)
            audit.record(request, "profile changed", user, before={"time_zone": before}, after={"time_zone": after})
        messages.success(request, "Saved.")
        return redirect("profile")
    return render(request, "backupsite/profile.html", {"form": form, "grants": user.grants.order_by("role")})


@require_http_methods(["GET", "HEAD", "POST"])
def profile_password(request: HttpRequest) -> HttpResponse:
    user = _me(request)
    form = OwnPasswordForm(_posted(request), user=user)
    if request.method == "POST":
        if not ratelimit.consume(request, action="change_password", user=user):
            return no_store(render(request, "429.html", status=429))
        if form.is_valid():
            with transaction.atomic():
                people.set_password(user, form.cleaned_data["password"])
                audit.record(request, "own password changed", user, severity=Severity.NOTICE)
            update_session_auth_hash(request, user)
            messages.success(request, "Your password is changed; other browsers are signed out.")
            return redirect("profile")
    return no_store(render(request, "backupsite/profile_password.html", {"form": form}))


def _posted(request: HttpRequest) -> QueryDict | None:
    return request.POST if request.method == "POST" else None


def _me(request: HttpRequest) -> User:
    assert isinstance(request.user, User)  # LoginRequiredMiddleware lets nobody else through
    return request.user


@login_not_required
@require_http_methods(["GET", "HEAD", "POST"])
def first_administrator(request: HttpRequest, token: str) -> HttpResponse:
    """The one-time link: makes the first account, with the Administrator's role, and signs it in."""
    if first_admin.find_link(token, timezone.now()) is None:
        return _link_ended(request)
    form = FirstAdminForm(_posted(request))
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        try:
            with transaction.atomic():
                user = people.create_first_administrator(
                    token, data["username"], data["password"], data["time_zone"], timezone.now()
                )
                address = audit.client_address(request)
                audit.record_for(user, "first administrator created", user, address=address, severity=Severity.HIGH)
        except people.LinkEnded:
            return _link_ended(request)
        login(request, user, backend=site_settings.AUTHENTICATION_BACKENDS[0])
        return redirect("dashboard")
    return no_store(render(request, "backupsite/first_admin.html", {"form": form}))


def _link_ended(request: HttpRequest) -> HttpResponse:
    return no_store(render(request, "backupsite/first_admin_ended.html", status=404))


@requires(Right.ADMINISTER)
@require_safe
def settings(request: HttpRequest) -> HttpResponse:
    return render(request, "backupsite/settings.html", {"config": site_settings.BACKUPSITE, **_versions()})


def _versions() -> dict[str, Any]:
    number = connection.pg_version  # type: ignore[attr-defined]  # 180001 of Postgres 18.1
    return {
        "version": _own_version(),
        "python_version": sys.version.split()[0],
        "django_version": django.get_version(),
        "postgres_version": f"{number // 10000}.{number % 10000}",
    }


@cache
def _own_version() -> str:
    with (site_settings.BASE_DIR / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])
