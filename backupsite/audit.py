"""The audit trail: what is recorded of a change, a key use, a restore, a download and a sign-in.

Callers decide when; this module decides what a row holds. Values that are secret never come here: callers pass plain
fields.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth import signals
from django.db import models
from django.http import HttpRequest

from backupsite.models import AuditEvent, Severity, User


def record(
    request: HttpRequest,
    action: str,
    subject: models.Model | None = None,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    severity: str = Severity.INFO,
) -> AuditEvent:
    """Add an event of the signed-in user, with the address that the request came from."""
    user = request.user if isinstance(request.user, User) else None
    return record_for(
        user, action, subject, address=client_address(request), before=before, after=after, severity=severity
    )


def record_for(
    user: User | None,
    action: str,
    subject: models.Model | None = None,
    *,
    address: str | None = None,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    severity: str = Severity.INFO,
) -> AuditEvent:
    """Add an event outside a request: a scheduled session (no user) or one that a user started earlier."""
    return AuditEvent.objects.create(
        user=user,
        user_name=user.username if user else "",
        address=address,
        action=action,
        severity=severity,
        object_type=subject._meta.model_name or "" if subject else "",
        object_id=str(getattr(subject, "uuid", None) or subject.pk) if subject else "",
        object_name=str(subject)[:200] if subject else "",
        before=before or {},
        after=after or {},
    )


def client_address(request: HttpRequest) -> str | None:
    """Return the visitor's address; behind trusted proxies the middleware in `proxies` has already put it into
    REMOTE_ADDR.
    """
    return request.META.get("REMOTE_ADDR") or None


def listen_to_sign_ins() -> None:
    signals.user_logged_in.connect(_signed_in, dispatch_uid="audit_in")
    signals.user_logged_out.connect(_signed_out, dispatch_uid="audit_out")
    signals.user_login_failed.connect(_refused, dispatch_uid="audit_refused")


def _signed_in(sender: object, request: HttpRequest, user: User, **_: object) -> None:
    record_for(user, "sign-in", user, address=client_address(request))


def _signed_out(sender: object, request: HttpRequest, user: User | None, **_: object) -> None:
    if user is not None:
        record_for(user, "sign-out", user, address=client_address(request))


def _refused(sender: object, credentials: dict[str, Any], request: HttpRequest | None = None, **_: object) -> None:
    typed = str(credentials.get("username", ""))[:150]
    # A name that nobody has may be a password typed into the wrong field: it isn't kept.
    name = typed if User.objects.filter(username=typed).exists() else ""
    address = client_address(request) if request else None
    record_for(None, "sign-in refused", address=address, after={"name": name}, severity=Severity.NOTICE)
