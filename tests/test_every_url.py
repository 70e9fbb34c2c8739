"""Every address with every role and with nobody: a table of who may what, and a walk through the resolver by it.

A new address without a row fails, and so does a row without an address. A row says which right an address needs, which
methods it takes, and what it is about; the walk really asks, so that a forgotten decorator shows as a page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
from django.db import transaction
from django.http import HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from backupsite.models import Role, RoleGrant, User
from backupsite.roles import Right, may
from jobs import questions
from jobs.models import Job, JobChain, JobChainState, Session, SessionKind, State
from keys.models import (
    CustodyChallenge,
    KmsKey,
    KmsKeyVersion,
    KmsServer,
    PasswordRecord,
    PasswordVersion,
    RecoveryKey,
)
from repositories.models import Chain, RecoveryRequest, Repository, RestorePoint
from tests.cast import browser_of
from tests.factories import (
    make_chain,
    make_imported_chain,
    make_job,
    make_kms_key,
    make_password,
    make_point,
    make_proxy,
    make_recovery_key,
    make_recovery_request,
    make_session,
    make_user,
)

PUBLIC, SIGNED_IN = "public", "signed in"


@dataclass(frozen=True)
class Row:
    needs: Right | str
    methods: str
    about: str = ""  # whose id stands in the address


SEE, RUN, EDIT, RESTORE, KEYS = Right.SEE, Right.RUN, Right.EDIT, Right.RESTORE, Right.KEYS
PEOPLE, AUDIT, ADMINISTER = Right.PEOPLE, Right.AUDIT, Right.ADMINISTER

TABLE = {
    # Without a sign-in: these and no others.
    "healthz": Row(PUBLIC, "GET"),
    "account_login": Row(PUBLIC, "GET POST"),
    "account_logout": Row(PUBLIC, "GET POST"),
    "account_inactive": Row(PUBLIC, "GET"),
    "first_admin": Row(PUBLIC, "GET POST", "token"),
    # Everybody who is signed in, also without a role: one's own account.
    "profile": Row(SIGNED_IN, "GET POST"),
    "profile_password": Row(SIGNED_IN, "GET POST"),
    "user_list": Row(PEOPLE, "GET"),
    "user_new": Row(PEOPLE, "GET POST"),
    "user_detail": Row(PEOPLE, "GET POST", "user"),
    "user_password": Row(PEOPLE, "GET POST", "user"),
    "user_deactivate": Row(PEOPLE, "GET POST", "user"),
    "user_activate": Row(PEOPLE, "POST", "inactive"),
    "audit_list": Row(AUDIT, "GET"),
    "settings": Row(ADMINISTER, "GET"),
    "password_list": Row(KEYS, "GET"),
    "password_new": Row(KEYS, "GET POST"),
    "password_detail": Row(KEYS, "GET", "password"),
    "password_edit": Row(KEYS, "GET POST", "password"),
    "password_change": Row(KEYS, "GET POST", "password"),
    "password_verify": Row(KEYS, "GET POST", "password"),
    "password_delete": Row(KEYS, "GET POST", "password"),
    "password_usage": Row(KEYS, "GET", "password"),
    "password_outlook": Row(KEYS, "GET", "password"),
    "recovery_list": Row(KEYS, "GET"),
    "recovery_add": Row(KEYS, "GET POST"),
    "recovery_make": Row(KEYS, "GET POST"),
    "recovery_detail": Row(KEYS, "GET", "recovery"),
    "recovery_custody": Row(KEYS, "GET POST", "recovery"),
    "recovery_challenge": Row(KEYS, "POST", "recovery"),
    "recovery_challenge_file": Row(KEYS, "GET", "recovery"),
    "recovery_retire": Row(KEYS, "GET POST", "recovery"),
    "recovery_take_back": Row(KEYS, "POST", "recovery"),
    "recovery_delete": Row(KEYS, "GET POST", "recovery"),
    "recovery_usage": Row(KEYS, "GET", "recovery"),
    "key_map": Row(KEYS, "GET"),
    "key_map_csv": Row(KEYS, "GET"),
    "what_if": Row(KEYS, "GET", "kind of key"),
    "what_if_csv": Row(KEYS, "GET", "kind of key"),
    "password_lost": Row(KEYS, "GET POST", "password"),
    "password_found": Row(KEYS, "POST", "password"),
    "rewrap_chain": Row(KEYS, "GET POST", "chain"),
    "rewrap_for_password": Row(KEYS, "GET POST", "password"),
    "rewrap_for_kms_key": Row(KEYS, "GET POST", "kms key"),
    "rewrap_for_recovery_key": Row(KEYS, "GET POST", "recovery"),
    "rewrap_stop": Row(KEYS, "POST", "rewrap"),
    "kms_list": Row(KEYS, "GET"),
    "kms_new": Row(KEYS, "GET POST"),
    "kms_detail": Row(KEYS, "GET", "kms server"),
    "kms_edit": Row(KEYS, "GET POST", "kms server"),
    "kms_certificate": Row(KEYS, "GET POST", "kms server"),
    "kms_test": Row(KEYS, "POST", "kms server"),
    "kms_delete": Row(KEYS, "GET POST", "kms server"),
    "kms_poll": Row(KEYS, "POST", "kms server"),
    "kms_rotate": Row(KEYS, "GET POST", "kms key"),
    "kms_usage": Row(KEYS, "GET", "kms key"),
    "kms_lost": Row(KEYS, "GET POST", "kms version"),
    "repository_list": Row(SEE, "GET"),
    "repository_detail": Row(SEE, "GET", "repository"),
    "repository_room": Row(SEE, "GET", "repository"),
    "repository_fill": Row(SEE, "GET"),
    "repository_new": Row(ADMINISTER, "GET POST"),
    "repository_check": Row(ADMINISTER, "POST"),
    "repository_edit": Row(ADMINISTER, "GET POST", "repository"),
    "foreign_chains": Row(KEYS, "GET", "repository"),
    "chain_import": Row(KEYS, "GET POST", "foreign chain"),
    "chain_forget": Row(ADMINISTER, "GET POST", "imported chain"),
    "recovery_request_new": Row(KEYS, "POST", "foreign chain"),
    "recovery_request": Row(KEYS, "GET POST", "recovery request"),
    "recovery_request_file": Row(KEYS, "GET", "recovery request"),
    "repository_delete": Row(ADMINISTER, "GET POST", "repository"),
    "chain_detail": Row(SEE, "GET", "chain"),
    "proxy_list": Row(SEE, "GET"),
    "proxy_answer": Row(SEE, "GET", "proxy"),
    "dashboard": Row(SEE, "GET"),
    "job_list": Row(SEE, "GET"),
    "job_detail": Row(SEE, "GET", "job"),
    "job_new": Row(EDIT, "GET POST"),
    "job_edit": Row(EDIT, "GET POST", "job"),
    "job_run": Row(RUN, "POST", "job"),
    "job_full": Row(RUN, "POST", "job"),
    "job_new_chain": Row(EDIT, "GET POST", "job"),
    "job_pause": Row(EDIT, "POST", "job"),
    "job_resume": Row(EDIT, "POST", "job"),
    "job_delete": Row(ADMINISTER, "GET POST", "job"),
    "chain_detach": Row(ADMINISTER, "GET POST", "chain of job"),
    "lone_chains": Row(SEE, "GET"),
    "chain_expiry": Row(ADMINISTER, "GET POST", "detached chain"),
    "chain_delete": Row(ADMINISTER, "GET POST", "detached chain"),
    "session_list": Row(SEE, "GET"),
    "missed_list": Row(SEE, "GET"),
    "session_detail": Row(SEE, "GET", "session"),
    "session_stop": Row(RUN, "POST", "session"),
    "session_retry": Row(RUN, "POST", "session"),
    "restore_stop": Row(RESTORE, "POST", "session"),
    "restore_start": Row(RESTORE, "GET"),
    "point_detail": Row(SEE, "GET", "point"),
    "point_verify": Row(RUN, "POST", "point"),
    "point_browse": Row(RESTORE, "GET", "point"),
    "point_download": Row(RESTORE, "GET", "point"),
    "point_password": Row(RESTORE, "GET POST", "point"),
    "point_restore": Row(RESTORE, "GET POST", "point"),
}

WATCHED = (
    *(User, RoleGrant, Job, JobChain, Session, Repository, Chain, RestorePoint, RecoveryRequest),
    *(PasswordRecord, PasswordVersion, RecoveryKey, CustodyChallenge, KmsServer, KmsKey, KmsKeyVersion),
)


def patterns(resolver: URLResolver) -> Iterator[URLPattern]:
    for entry in resolver.url_patterns:
        if isinstance(entry, URLResolver):
            yield from patterns(entry)
        else:
            yield entry


def test_every_address_has_a_row_and_every_row_an_address() -> None:
    names = [pattern.name for pattern in patterns(get_resolver())]
    assert None not in names, "an address without a name"
    assert len(names) == len(set(names)), "two addresses of one name"
    assert set(names) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_the_view_is_marked_with_the_right_of_its_row(name: str) -> None:
    needs = TABLE[name].needs
    views = [pattern.callback for pattern in patterns(get_resolver()) if pattern.name == name]
    assert len(views) == 1
    assert getattr(views[0], "right", None) == (needs if isinstance(needs, Right) else None)


@dataclass
class World:
    """One of everything, and everybody."""

    addresses: dict[str, dict[str, Any]]
    people: dict[str, User | None]


@pytest.fixture
def world(db: None, monkeypatch: pytest.MonkeyPatch) -> World:
    # Nobody answers questions here: a view that asks must live with that, and the walk does not wait for it.
    def silent(*_: object, **__: object) -> dict[str, Any]:
        raise questions.NoAnswer("No proxy answers in this test.")

    monkeypatch.setattr(questions, "ask", silent)
    job = make_job(password=make_password())
    chain = make_chain(job)
    key = make_kms_key()
    addresses = {
        "": {},
        "token": {"token": "no-such-token"},
        "user": {"pk": make_user(Role.VIEWER).pk},
        "inactive": {"pk": make_user(Role.VIEWER, is_active=False).pk},
        "password": {"uuid": job.password.uuid},
        "recovery": {"uuid": make_recovery_key().uuid},
        "kind of key": {"kind": "password", "uuid": job.password.uuid},
        "rewrap": {"uuid": make_session(job, kind=SessionKind.REWRAP, state=State.FAILED).uuid},
        "kms server": {"uuid": key.server.uuid},
        "kms key": {"uuid": key.uuid},
        "kms version": {"uuid": key.uuid, "number": 1},
        "repository": {"uuid": job.repository.uuid},
        "chain": {"uuid": chain.uuid},
        "detached chain": {"uuid": make_chain(job, state=JobChainState.DETACHED).uuid},
        "foreign chain": {"uuid": job.repository.uuid, "chain": "00000000-0000-4000-8000-000000000000"},
        "imported chain": {"uuid": make_imported_chain(job.repository).uuid},
        "recovery request": {"uuid": make_recovery_request(job.repository).uuid},
        "chain of job": {"uuid": job.uuid, "chain": chain.uuid},
        "point": {"uuid": make_point(chain).uuid},
        "proxy": {"uuid": make_proxy().uuid},
        "job": {"uuid": job.uuid},
        "session": {"uuid": make_session(job, state=State.FAILED).uuid},
    }
    people = {role: make_user(role) for role in Role.values}
    closed = make_user(Role.ADMINISTRATOR, is_active=False)
    return World(addresses, {**people, "no role": make_user(None), "closed account": closed, "visitor": None})


def ask(user: User | None, method: str, address: str) -> HttpResponse:
    """Ask for the address as this person; what it changes is taken back."""
    client = browser_of(user) if user else Client()
    client.raise_request_exception = True
    with transaction.atomic():
        response = client.generic(method, address)
        transaction.set_rollback(True)
    return response


def expected(row: Row, user: User | None, method: str) -> str:
    if row.needs == PUBLIC:
        return "open"
    if user is None or not user.is_active:
        return "sign in"
    if isinstance(row.needs, Right) and not may(User.objects.get(pk=user.pk), row.needs):
        return "refused"
    return "open" if method in row.methods.split() else "wrong method"


def found(response: HttpResponse) -> str:
    if response.status_code == 302 and response["Location"].startswith("/account/login/?next="):
        return "sign in"
    return {403: "refused", 405: "wrong method"}.get(response.status_code, "open")


def rows_of_everything() -> list[list[Any]]:
    return [list(model._default_manager.order_by("pk").values_list()) for model in WATCHED]


@pytest.mark.parametrize("name", TABLE)
def test_the_walk(name: str, world: World, subtests: pytest.Subtests) -> None:
    row = TABLE[name]
    address = reverse(name, kwargs=world.addresses[row.about])
    for (who, user), method in product(world.people.items(), ("GET", "POST")):
        with subtests.test(who=who, method=method):
            response = ask(user, method, address)
            wanted = expected(row, user, method)
            assert found(response) == wanted or (row.needs == PUBLIC and found(response) != "refused")
            assert response.status_code < 500 or name == "healthz"


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.needs != PUBLIC])
def test_only_post_changes_anything(name: str, world: World) -> None:
    """GET, HEAD, OPTIONS and the unusual leave every row as it was, whoever asks."""
    address = reverse(name, kwargs=world.addresses[TABLE[name].about])
    client = browser_of(User.objects.get(pk=world.people[Role.ADMINISTRATOR].pk))  # type: ignore[union-attr]
    before = rows_of_everything()  # signing in is written down
    for method in ("GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"):
        response = client.generic(method, address)
        if method in ("PUT", "PATCH", "DELETE"):
            assert response.status_code == 405
    assert rows_of_everything() == before


@pytest.mark.django_db
def test_ids_that_do_not_exist_are_not_told_to_strangers() -> None:
    """Whoever may not see a thing gets the same answer whether it exists or not."""
    nobody = browser_of(make_user(None))
    job = make_job()
    there = nobody.get(reverse("job_detail", args=[job.uuid]))
    gone = nobody.get(reverse("job_detail", args=["00000000-0000-4000-8000-000000000000"]))
    assert there.status_code == gone.status_code == 403
