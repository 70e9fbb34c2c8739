"""What the lists can be narrowed to, from the URL: an unknown value is as if it weren't there, so that an old bookmark
still opens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from jobs.models import SessionKind, State

STATES = {"active": "waiting or running", **dict(State.choices)}
KINDS = dict(SessionKind.choices)
SINCE = {"24h": 24, "7d": 7 * 24, "30d": 30 * 24}


@dataclass(frozen=True)
class Place:
    """Where a page of a list, ordered by (created_at, id) from the newest, goes on."""

    at: datetime
    pk: int

    def __str__(self) -> str:
        return f"{self.at.isoformat()}_{self.pk}"


@dataclass(frozen=True)
class SessionFilter:
    state: str = ""
    kind: str = ""
    job: UUID | None = None
    since: str = ""
    after: Place | None = None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> SessionFilter:
        return cls(
            state=_known(query.get("state", ""), STATES),
            kind=_known(query.get("kind", ""), KINDS),
            job=uuid_or_none(query.get("job", "")),
            since=_known(query.get("since", ""), SINCE),
            after=place_or_none(query.get("after", "")),
        )

    @property
    def since_hours(self) -> int | None:
        return SINCE.get(self.since)


def place_or_none(text: str) -> Place | None:
    at, _, pk = text.rpartition("_")
    try:
        place = Place(datetime.fromisoformat(at), int(pk))
    except ValueError:
        return None
    return place if place.at.tzinfo and 0 <= place.pk < 2**63 else None


def uuid_or_none(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _known(value: str, known: Mapping[str, object]) -> str:
    return value if value in known else ""
