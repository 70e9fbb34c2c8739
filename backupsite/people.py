"""Accounts and their roles: making, changing and closing them, and the rule that an administrator always remains.

What a role allows is decided in `roles`; the one-time link of the first administrator in `first_admin`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from django.db import models, transaction

from backupsite import first_admin
from backupsite.models import FirstAdmin, Role, RoleGrant, User
from backupsite.roles import AnyUser, Right, visible


class LastAdministrator(Exception):
    """The change would leave the console without anybody who can manage it."""

    def __init__(self, user: User) -> None:
        super().__init__(f"{user} is the last active administrator: give somebody else the role first.")


class LinkEnded(Exception):
    """The first administrator's link was used, is older than a day, or somebody has an account already."""


def users_visible_to(user: AnyUser) -> models.QuerySet[User]:
    return visible(User.objects.all(), user, Right.PEOPLE)


def roles_of(user: User) -> list[str]:
    """Return the user's roles, in the order of the table of roles."""
    granted = set(user.grants.values_list("role", flat=True))
    return [role for role in Role.values if role in granted]


@transaction.atomic
def create_user(name: str, password: str, roles: Iterable[str], time_zone: str) -> User:
    user = User.objects.create_user(name, password=password, time_zone=time_zone)
    RoleGrant.objects.bulk_create(RoleGrant(user=user, role=role) for role in roles)
    return user


@transaction.atomic
def change_roles(user: User, roles: Iterable[str]) -> None:
    """Give the user these roles and no other. Raises LastAdministrator."""
    wanted = set(roles)
    if Role.ADMINISTRATOR not in wanted:
        _refuse_if_last(user)
    user.grants.exclude(role__in=wanted).delete()
    RoleGrant.objects.bulk_create((RoleGrant(user=user, role=role) for role in wanted), ignore_conflicts=True)


@transaction.atomic
def change_active(user: User, active: bool) -> None:
    """Open or close an account; a closed one is signed out with its next request. Raises LastAdministrator."""
    if not active:
        _refuse_if_last(user)
    User.objects.filter(pk=user.pk).update(is_active=active)


def set_password(user: User, password: str) -> None:
    """Set a password; it ends the user's sign-ins elsewhere."""
    user.set_password(password)
    user.save(update_fields=["password"])


@transaction.atomic
def create_first_administrator(token: str, name: str, password: str, time_zone: str, now: datetime) -> User:
    """Use the one-time link up. Raises LinkEnded, also for the second of two who use it at once."""
    link = first_admin.find_link(token, now)
    used = FirstAdmin.objects.filter(pk=link.pk, used_at=None).update(used_at=now) if link else 0
    if not used or User.objects.exists():
        raise LinkEnded
    return create_user(name, password, [Role.ADMINISTRATOR], time_zone)


def _refuse_if_last(user: User) -> None:
    """Raise LastAdministrator if nobody else administers; two who ask at once are asked one after the other."""
    administrators = RoleGrant.objects.select_for_update().filter(role=Role.ADMINISTRATOR, user__is_active=True)
    holders = set(administrators.order_by("pk").values_list("user", flat=True))
    if holders == {user.pk}:
        raise LastAdministrator(user)
