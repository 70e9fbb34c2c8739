"""The map of keys and points, and what would stay closed if a secret were lost: as pages, as CSV, and declared so.

What opens what is counted in `key_map`. No file is opened here and no name of a file appears. What the next session of
a job does once a password is declared lost is decided in `planning`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST, require_safe

from backupsite import audit
from backupsite.models import Severity
from backupsite.roles import AnyUser, Right, requires
from jobs.csv_export import Cell, csv_response
from jobs.forms_key_map import LostForm
from jobs.key_map import Lost, Secret, Span, Use, only_opened_by, secrets, span_of, uses
from jobs.models import JobChain
from keys.models import KmsKey, KmsServer, PasswordRecord, RecoveryKey
from repositories.models import Chain, RestorePointQuerySet

ROWS_SHOWN = 500
POINTS_SHOWN = 100


@dataclass(frozen=True)
class Subject:
    """What may be lost: its name, what it is, and the records whose slots it opens."""

    kind: str
    uuid: UUID
    name: str
    row: PasswordRecord | KmsServer | KmsKey | RecoveryKey
    records: tuple[UUID, ...]

    @property
    def lost(self) -> Lost:
        return Lost(self.records)


@dataclass(frozen=True)
class ChainUse:
    """One secret on one chain, with its names."""

    use: Use
    secret: Secret
    chain: Chain
    job: UUID | None


@dataclass(frozen=True)
class MapRow:
    """One secret over all chains."""

    secret: Secret
    own: Span
    opens: Span
    chains: tuple[ChainUse, ...]

    @property
    def through_keyring(self) -> int:
        return self.opens.points - self.own.points

    @property
    def subject(self) -> str:
        return "kms" if self.secret.kind == "kms" else self.secret.kind


@requires(Right.KEYS)
@require_safe
def key_map(request: HttpRequest) -> HttpResponse:
    found = named_uses(request.user, uses())
    rows = map_rows(found)
    shown = sum(len(row.chains) for row in rows[:ROWS_SHOWN])
    context = {"rows": rows[:ROWS_SHOWN], "unfolded": shown <= ROWS_SHOWN, "left_out": max(0, len(rows) - ROWS_SHOWN)}
    return render(request, "jobs/key_map.html", context)


@requires(Right.KEYS)
@require_GET
def key_map_csv(request: HttpRequest) -> StreamingHttpResponse:
    found = named_uses(request.user, uses())
    audit.record(request, "key map exported", after={"rows": len(found)}, severity=Severity.NOTICE)
    return csv_response(f"key-map-{timezone.now():%Y-%m-%d}", MAP_HEAD, map(_map_cells, found))


@requires(Right.KEYS)
@require_safe
def what_if(request: HttpRequest, kind: str, uuid: UUID) -> HttpResponse:
    """Show what would stay closed without this secret, and what it opens."""
    subject = subject_of(request.user, kind, uuid)
    return render(request, "jobs/what_if.html", _stakes(request.user, subject))


@requires(Right.KEYS)
@require_GET
def what_if_csv(request: HttpRequest, kind: str, uuid: UUID) -> StreamingHttpResponse:
    subject = subject_of(request.user, kind, uuid)
    audit.record(request, "what if exported", subject.row, severity=Severity.NOTICE)
    rows = (cells for console in (False, True) for cells in _point_cells(subject, console=console))
    return csv_response(f"what-if-{subject.kind}-{timezone.now():%Y-%m-%d}", POINT_HEAD, rows)


@requires(Right.KEYS)
@require_http_methods(["GET", "HEAD", "POST"])
def password_lost(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Declare a password lost: nobody can type it any more."""
    subject = subject_of(request.user, "password", uuid)
    form = LostForm(request.POST if request.method == "POST" else None, name=subject.name)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            now = timezone.now()
            if PasswordRecord.objects.filter(pk=subject.row.pk, lost_at=None).update(lost_at=now):
                after = {"lost_at": now.isoformat()}
                audit.record(request, "password declared lost", subject.row, after=after, severity=Severity.HIGH)
                messages.success(request, f"The password “{subject.name}” counts as lost from now on.")
        return redirect("what_if", "password", uuid)
    return render(request, "jobs/password_lost.html", {**_stakes(request.user, subject), "form": form})


@requires(Right.KEYS)
@require_POST
def password_found(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Take the declaration back."""
    record = get_object_or_404(PasswordRecord.objects.visible_to(request.user), uuid=uuid)
    with transaction.atomic():
        if PasswordRecord.objects.filter(pk=record.pk, lost_at__isnull=False).update(lost_at=None):
            before = {"lost_at": record.lost_at.isoformat() if record.lost_at else None}
            audit.record(request, "password found again", record, before=before, severity=Severity.HIGH)
            messages.success(request, f"The password “{record}” counts as known again.")
    return redirect("what_if", "password", uuid)


def subject_of(user: AnyUser, kind: str, uuid: UUID) -> Subject:
    """Return what the address names. Raises Http404."""
    if kind == "password":
        record = get_object_or_404(PasswordRecord.objects.visible_to(user), uuid=uuid)
        return Subject(kind, uuid, record.name, record, (record.uuid,))
    if kind == "kms":
        server = get_object_or_404(KmsServer.objects.visible_to(user), uuid=uuid)
        return Subject(kind, uuid, server.name, server, tuple(server.keys.values_list("uuid", flat=True)))
    if kind == "kms-key":
        keys = KmsKey.objects.filter(server__in=KmsServer.objects.visible_to(user)).select_related("server")
        key = get_object_or_404(keys, uuid=uuid)
        return Subject(kind, uuid, str(key), key, (key.uuid,))
    if kind == "recovery":
        sheet = get_object_or_404(RecoveryKey.objects.visible_to(user), uuid=uuid)
        return Subject(kind, uuid, sheet.name, sheet, (sheet.uuid,))
    raise Http404("There is no such kind of key.")


def named_uses(user: AnyUser, found: list[Use]) -> list[ChainUse]:
    """Return what is used with the names of secrets, chains and jobs, in four queries."""
    chains = Chain.objects.visible_to(user).select_related("repository").in_bulk({use.chain for use in found})
    links = JobChain.objects.filter(chain__in=chains).values_list("chain", "job__uuid")
    jobs: dict[int, UUID] = dict(links)
    names = secrets(found)
    return [
        ChainUse(use, names[use.place], chains[use.chain], jobs.get(use.chain)) for use in found if use.chain in chains
    ]


KIND_ORDER = {"password": 0, "kms": 1, "recovery": 2}


def map_rows(found: list[ChainUse]) -> list[MapRow]:
    """Return one row for each secret, passwords first, each with its chains."""
    by_secret: dict[tuple[UUID, int], list[ChainUse]] = {}
    for one in found:
        by_secret.setdefault(one.use.place, []).append(one)
    rows = [
        MapRow(
            secret=ones[0].secret,
            own=sum((one.use.own for one in ones), Span()),
            opens=sum((one.use.opens for one in ones), Span()),
            chains=tuple(sorted(ones, key=lambda one: (one.chain.job_name, one.chain.created_at))),
        )
        for ones in by_secret.values()
    ]
    return sorted(rows, key=lambda row: (KIND_ORDER.get(row.secret.kind, 9), row.secret.name))


def _stakes(user: AnyUser, subject: Subject) -> dict[str, Any]:
    """Return what is at stake: closed for good, opened by the console alone, and everything that it opens."""
    for_good, console = only_opened_by(subject.lost, console=False), only_opened_by(subject.lost, console=True)
    rows = map_rows(named_uses(user, uses(subject.records)))
    opens = sum((one.use.opens.points for one in newest_of(rows)), 0)
    for_good_span, console_span = span_of(for_good), span_of(console)
    return {
        "subject": subject,
        "rows": rows,
        "for_good": for_good_span,
        "console": console_span,
        "otherwise": max(0, opens - for_good_span.points - console_span.points),
        "for_good_points": _listed(for_good),
        "console_points": _listed(console),
        "listed": POINTS_SHOWN,
    }


def newest_of(rows: list[MapRow]) -> list[ChainUse]:
    """Return for each chain the use that reaches furthest: the others open parts of the same points."""
    furthest: dict[int, ChainUse] = {}
    for one in (one for row in rows for one in row.chains):
        there = furthest.get(one.use.chain)
        if there is None or one.use.newest > there.use.newest:
            furthest[one.use.chain] = one
    return list(furthest.values())


def _listed(points: RestorePointQuerySet) -> list[Any]:
    return list(_by_chain(points)[:POINTS_SHOWN])


def _by_chain(points: RestorePointQuerySet) -> RestorePointQuerySet:
    found = points.select_related("chain__repository").defer("seal_hash", "file_key_sealed")
    return found.order_by("chain__job_name", "chain", "-sequence")


MAP_HEAD = (
    "kind", "record", "version", "name", "state", "job", "repository", "chain", "points with a slot",
    "bytes with a slot", "first with a slot", "last with a slot", "points through keyrings", "points opened",
    "bytes opened", "first opened", "last opened",
)  # fmt: skip
POINT_HEAD = ("fate", "job", "repository", "chain", "number", "point", "kind", "began", "bytes")


def _map_cells(one: ChainUse) -> tuple[Cell, ...]:
    use, secret, chain = one.use, one.secret, one.chain
    own, opens = use.own, use.opens
    return (
        use.kind, str(use.record), use.version, secret.name, secret.state or "in use", chain.job_name,
        chain.repository.name, str(chain.uuid), own.points, own.size_bytes, own.first, own.last,
        use.through_keyring, opens.points, opens.size_bytes, opens.first, opens.last,
    )  # fmt: skip


def _point_cells(subject: Subject, *, console: bool) -> Iterator[tuple[Cell, ...]]:
    fate = "only the console opens it" if console else "closed for good"
    for point in _by_chain(only_opened_by(subject.lost, console=console)).iterator(chunk_size=2000):
        chain = point.chain
        yield (
            fate, chain.job_name, chain.repository.name, str(chain.uuid), point.sequence, str(point.uuid),
            point.kind, point.started_at, point.size_bytes,
        )  # fmt: skip
