"""The first administrator: the one-time link that makes one, or the password of an unattended start.

Decides when either is possible: only while no user exists. The page behind the link is the site's; it asks `find_link`.
"""

import hashlib
import secrets
from datetime import datetime, timedelta

from django.contrib.auth.password_validation import validate_password
from django.db import transaction

from backupsite import audit
from backupsite.models import FirstAdmin, Role, RoleGrant, User

LINK_HOURS = 24


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def new_link(origin: str) -> str | None:
    """Return a new address for the first administrator; earlier ones end. None when there is a user already."""
    if User.objects.exists():
        return None
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        FirstAdmin.objects.filter(used_at=None).delete()
        FirstAdmin.objects.create(token_hash=hash_of(token))
    return f"{origin}/first-admin/{token}/"


def find_link(token: str, now: datetime) -> FirstAdmin | None:
    """Return the row of a link that still works."""
    if User.objects.exists():
        return None
    oldest = now - timedelta(hours=LINK_HOURS)
    return FirstAdmin.objects.filter(token_hash=hash_of(token), used_at=None, created_at__gt=oldest).first()


@transaction.atomic
def create_unattended(password: str) -> User | None:
    """Make the user `admin` with the Administrator's role. None when there is a user already.

    Raises ValidationError for a password that the console's own form would refuse.
    """
    if User.objects.exists():
        return None
    validate_password(password, User(username="admin"))
    user = User.objects.create_user("admin", password=password)
    RoleGrant.objects.create(user=user, role=Role.ADMINISTRATOR)
    audit.record_for(None, "first administrator created", user, after={"by": "BACKUPSITE_ADMIN_PASSWORD"})
    return user
