"""What the shell around every page knows: the rights of the person who looks at it."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from backupsite.roles import rights_of


def shell(request: HttpRequest) -> dict[str, Any]:
    user = getattr(request, "user", None)
    return {"rights": frozenset(right.value for right in rights_of(user)) if user is not None else frozenset()}
