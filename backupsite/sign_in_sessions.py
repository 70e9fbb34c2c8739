"""Where sign-ins are kept: in Postgres, as Django does, but under a hash of the cookie's value.

Who reads the database (or a dump of it) finds no cookie to sign in with. What a session holds is Django's, and signed.
"""

from __future__ import annotations

import hashlib
from typing import Any

from django.contrib.sessions.backends import db
from django.contrib.sessions.base_session import AbstractBaseSession
from django.contrib.sessions.models import Session
from django.utils import timezone

COLUMN_CHARACTERS = 40


def stored_key(session_key: str) -> str:
    """Return what stands in the table for a cookie's value: 160 bits of its SHA-256; the value itself is random."""
    return hashlib.sha256(session_key.encode()).hexdigest()[:COLUMN_CHARACTERS]


class SessionStore(db.SessionStore):
    def _get_session_from_db(self) -> Session | None:
        key = self.session_key or ""
        found = Session.objects.filter(session_key=stored_key(key), expire_date__gt=timezone.now()).first()
        if found is None:
            self._session_key = None
        return found

    def exists(self, session_key: str) -> bool:
        return super().exists(stored_key(session_key))

    def create_model_instance(self, data: dict[str, Any]) -> AbstractBaseSession:
        row = super().create_model_instance(data)
        row.session_key = stored_key(row.session_key)
        return row

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key is not None:
            super().delete(stored_key(key))
