"""What each role may do: one table, and the one helper that every view asks.

Which objects a user sees is decided by the `visible_to` of each model's manager, which asks `visible` here; scopes
later change that one function.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from typing import Any, TypeVar

from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.db import models
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from backupsite.models import Role, RoleGrant, User


class Right(StrEnum):
    SEE = "see"  # jobs, sessions, the dashboard
    RUN = "run"  # run, stop, retry
    EDIT = "edit"  # create and edit jobs
    RESTORE = "restore"  # browse, download, restore
    KEYS = "keys"  # passwords, KMS servers, recovery keys
    PEOPLE = "people"  # users and roles
    AUDIT = "audit"  # read the audit trail
    ADMINISTER = "administer"  # repositories, proxies, settings; delete, detach, pin


ROLE_RIGHTS: dict[str, frozenset[Right]] = {
    Role.ADMINISTRATOR: frozenset(Right),
    Role.SECURITY_ADMINISTRATOR: frozenset({Right.SEE, Right.KEYS, Right.AUDIT}),
    Role.BACKUP_OPERATOR: frozenset({Right.SEE, Right.RUN}),
    Role.RESTORE_OPERATOR: frozenset({Right.SEE, Right.RESTORE}),
    Role.VIEWER: frozenset({Right.SEE}),
}

AnyUser = User | AnonymousUser
View = TypeVar("View", bound=Callable[..., HttpResponseBase])


def rights_of(user: AnyUser) -> frozenset[Right]:
    """Return every right that the user's roles add up to; none for a visitor, an inactive user or a user without a
    role.
    """
    if not isinstance(user, User) or not user.is_active:
        return frozenset()
    cached: frozenset[Right] | None = getattr(user, "_rights", None)
    if cached is None:
        roles = RoleGrant.objects.filter(user=user).values_list("role", flat=True)
        cached = frozenset().union(*(ROLE_RIGHTS[role] for role in roles))
        user._rights = cached  # type: ignore[attr-defined]  # once a request: a request has its own user object
    return cached


def may(user: AnyUser, right: Right) -> bool:
    return right in rights_of(user)


def requires(right: Right) -> Callable[[View], View]:
    """Refuse (403) whoever lacks `right`. Every view carries exactly one, above its first line; the URL walk test
    reads `view.right`.
    """

    def mark(view: View) -> View:
        @wraps(view)
        def checked(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponseBase:
            if not may(request.user, right):
                raise PermissionDenied(right)
            return view(request, *args, **kwargs)

        checked.right = right  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return mark


Rows = TypeVar("Rows", bound="models.QuerySet[Any]")


def visible(rows: Rows, user: AnyUser, right: Right = Right.SEE) -> Rows:
    """Return the rows that the user may see: all with the right (scope *everything*), else none."""
    return rows if may(user, right) else rows.none()
