"""The table of roles, against the design's own, written out; and the helper that every view asks."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from backupsite.models import AuditEvent, Role, RoleGrant, User
from backupsite.roles import ROLE_RIGHTS, Right, may, requires, rights_of, visible
from backupsite.templatetags.shell import MENU, groups, is_below
from tests.factories import make_user

# see, run, edit, restore, keys, people, audit, administer
EXPECTED = {
    Role.ADMINISTRATOR: "x x x x x x x x",
    Role.SECURITY_ADMINISTRATOR: "x . . . x . x .",
    Role.BACKUP_OPERATOR: "x x . . . . . .",
    Role.RESTORE_OPERATOR: "x . . x . . . .",
    Role.VIEWER: "x . . . . . . .",
}


@pytest.mark.parametrize("role", Role)
def test_each_role_may_what_the_table_says(role: Role) -> None:
    expected = {right for right, mark in zip(Right, EXPECTED[role].split(), strict=True) if mark == "x"}
    assert ROLE_RIGHTS[role] == expected


def test_every_role_is_in_the_table() -> None:
    assert set(ROLE_RIGHTS) == set(Role.values)


@pytest.mark.django_db
def test_rights_add_up_over_roles() -> None:
    user = make_user(Role.BACKUP_OPERATOR)
    RoleGrant.objects.create(user=user, role=Role.RESTORE_OPERATOR)
    assert rights_of(user) == {Right.SEE, Right.RUN, Right.RESTORE}


@pytest.mark.django_db
def test_nobody_else_has_rights() -> None:
    inactive = make_user(Role.ADMINISTRATOR, is_active=False)
    superuser = make_user(None, is_superuser=True, is_staff=True)
    for user in (AnonymousUser(), make_user(None), inactive, superuser):
        assert rights_of(user) == frozenset()
        assert not may(user, Right.SEE)


@pytest.mark.django_db
def test_rows_are_visible_by_right() -> None:
    viewer, auditor = make_user(Role.VIEWER), make_user(Role.SECURITY_ADMINISTRATOR)
    AuditEvent.objects.create(action="x")
    assert visible(AuditEvent.objects.all(), auditor, Right.AUDIT).count() == 1
    assert visible(AuditEvent.objects.all(), viewer, Right.AUDIT).count() == 0


@pytest.mark.django_db
def test_a_view_refuses_whoever_lacks_its_right() -> None:
    @requires(Right.AUDIT)
    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse("seen")

    assert view.right is Right.AUDIT  # type: ignore[attr-defined]
    request = RequestFactory().get("/")
    request.user = make_user(Role.SECURITY_ADMINISTRATOR)
    assert view(request).content == b"seen"
    refused: list[User | AnonymousUser] = [make_user(Role.BACKUP_OPERATOR), make_user(None), AnonymousUser()]
    for user in refused:
        request.user = user
        with pytest.raises(PermissionDenied):
            view(request)


def labels(rights: frozenset[str]) -> set[str]:
    return {link.label for _, links in groups(rights, "/") for link in links}


def test_the_menu_shows_only_what_the_rights_allow() -> None:
    everything = frozenset(right.value for right in Right)
    assert labels(everything) == {item.label for _, items in MENU for item in items}
    everybody = {"Dashboard", "Jobs", "Sessions", "Repositories", "Detached chains", "Proxies"}
    assert labels(frozenset({"see"})) == everybody
    assert labels(frozenset()) == set()


def test_the_menu_marks_the_page_that_one_is_on() -> None:
    current = [
        link.label for _, links in groups(frozenset({"people", "see"}), "/users/3/") for link in links if link.current
    ]
    assert current == ["Users and roles"]
    chain = [link.label for _, links in groups(frozenset({"see"}), "/chains/x/") for link in links if link.current]
    assert chain == ["Repositories"]
    assert is_below("/", "/") and not is_below("/users/", "/")
