"""Taking over chains that were made elsewhere, or by a console that is lost: list, open, see what came of it.

A repository's folder is looked at by its proxy, and files are opened there; the catalogue is changed here, in one
transaction with the audit event. What belongs to a chain is decided in `repositories.engine.takeover`. A password is
never stored unless a record of it is asked for, and never comes back into a page.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.db import transaction
from django.db.models import ProtectedError, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_safe

from backupsite import audit
from backupsite.models import Severity
from backupsite.responses import no_store
from backupsite.roles import Right, requires
from jobs import answering_chains, questions
from jobs.job_views import signed_in
from jobs.models import JobChain, Proxy, Session
from keys import attempts
from keys.models import KmsServer, VerifyAttempt
from keys.passwords import CannotKeep
from keys.signing import public_bytes
from repositories import importing
from repositories.engine.takeover import Standing
from repositories.foreign import ListedChain, OpenedChain, SeenChain, SeenFile
from repositories.forms_import import ImportForm
from repositories.models import Chain, RecoveryRequest, Repository, RestorePoint

FILES_SHOWN = 100


@requires(Right.KEYS)
@require_safe
def foreign_chains(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Show what lies in a repository's folder and is not in the catalogue."""
    repository = get_object_or_404(Repository.objects.visible_to(request.user), uuid=uuid)
    context: dict[str, Any] = {"repository": repository}
    try:
        answer = ask(request, "unknown_chains", repository)
        context["chains"] = answering_chains.read(answer, list[ListedChain])
    except (questions.NoAnswer, questions.Refused) as error:
        context["no_answer"] = str(error)
    imported = Chain.objects.filter(repository=repository, imported_at__isnull=False)
    context["imported"] = imported.order_by("-imported_at")[:FILES_SHOWN]
    return render(request, "repositories/foreign_chains.html", context)


@requires(Right.KEYS)
@sensitive_post_parameters("password")
@require_http_methods(["GET", "HEAD", "POST"])
def chain_import(request: HttpRequest, uuid: UUID, chain: UUID) -> HttpResponse:
    """Show one chain of the folder file by file, and take over what opens; also once more, with another secret."""
    repository = get_object_or_404(Repository.objects.visible_to(request.user), uuid=uuid)
    try:
        answer = ask(request, "look_at_chain", repository, chain=str(chain))
        seen = answering_chains.read(answer, SeenChain)
    except (questions.NoAnswer, questions.Refused) as error:
        return _page(request, {"repository": repository, "chain_id": chain, "no_answer": str(error)})
    form = ImportForm(request.POST if request.method == "POST" else None, slots=_passwords(seen))
    form.fields["password"].required = seen.encrypted and "own" not in request.POST
    status = 200
    if request.method == "POST" and (refusal := _refusal(chain)):
        form.add_error(None, refusal)
    elif request.method == "POST" and form.is_valid():
        try:
            _import(request, repository, seen, form)
            return redirect("chain_import", uuid, chain)
        except attempts.TooManyAttempts:
            status = 429
            form.add_error("password", "Too many wrong passwords for this chain: wait five minutes. Nothing was tried.")
        except WRONG as error:
            form.add_error(None, str(error))
    return _page(request, _context(repository, seen) | {"form": form}, status)


@requires(Right.ADMINISTER)
@require_http_methods(["GET", "HEAD", "POST"])
def chain_forget(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Take an imported chain out of the catalogue; its files stay where they are."""
    imported = Chain.objects.visible_to(request.user).filter(imported_at__isnull=False, job_chain=None)
    chain = get_object_or_404(imported.select_related("repository"), uuid=uuid)
    held = ""
    if request.method == "POST":
        try:
            with transaction.atomic():
                before = {"repository": chain.repository.name, "points": chain.points.count()}
                audit.record(request, "imported chain forgotten", chain, before=before, severity=Severity.HIGH)
                importing.forget(chain)
        except ProtectedError as error:
            held = ", ".join(sorted({str(row) for row in error.protected_objects})[:5])
        else:
            messages.success(request, f"The chain of {chain.job_name} is forgotten; its files were not touched.")
            return redirect("foreign_chains", chain.repository.uuid)
    return render(request, "repositories/chain_forget.html", {"chain": chain, "held": held})


class WrongPassword(Exception):
    """The typed password opens none of the files that are closed."""

    def __init__(self) -> None:
        super().__init__(
            "This password opens none of the closed files. Capital letters and spaces count; see the hints."
        )


WRONG = (
    WrongPassword, importing.NothingOpened, importing.KnownElsewhere, questions.NoAnswer, questions.Refused,
)  # fmt: skip


STRICT = "The job of this chain keeps no key here (strict custody). If its KMS is gone, make a recovery request."


def _refusal(chain_id: UUID) -> str:
    """Say why a chain is not opened here now; empty if it may be."""
    writing = Session.objects.active().filter(claimed_settings__chain=str(chain_id)).first()
    if writing is not None and not Chain.objects.filter(uuid=chain_id).exists():
        return f"A session of {writing.job_name} is writing this chain now, and registers it itself."
    return STRICT if is_strict(chain_id) else ""


def is_strict(chain_id: UUID) -> bool:
    """Tell whether the chain is of a job that lets no file key be kept: only a recovery request opens it here."""
    return JobChain.objects.filter(chain__uuid=chain_id, job__strict_custody=True).exists()


def ask(request: HttpRequest, kind: str, repository: Repository, **params: object) -> answering_chains.Answer:
    """Ask the proxy about the repository's folder. Raises NoAnswer, Refused."""
    proxy = Proxy.objects.order_by("pk")[0]
    about: dict[str, Any] = {"repository": str(repository.uuid), **params}
    return questions.ask(proxy, kind, about, signed_in(request), answering_chains.ANSWER_SECONDS)


def _import(request: HttpRequest, repository: Repository, seen: SeenChain, form: ImportForm) -> None:
    """Open the chain and take over what belongs to it; what raises leaves nothing behind but the audit event."""
    typed = "" if "own" in request.POST else form.cleaned_data["password"]
    opened = _open_typed(request, repository, seen, typed, form) if typed else _open(request, repository, seen)
    for note in opened.chain.notes:
        messages.warning(request, note)
    with transaction.atomic():
        taken = importing.store(repository, opened.chain)
        after = facts_of(taken, opened.chain) | {"with": "a typed password" if typed else "what the console has"}
        audit.record(request, "chain imported", taken.chain, after=after, severity=Severity.HIGH)
    say_taken(request, taken)
    if opened.passwords and form.cleaned_data["name"]:
        _keep_record(request, opened, form.cleaned_data["name"])


def _open(request: HttpRequest, repository: Repository, seen: SeenChain, **secret: object) -> OpenedChain:
    answer = ask(request, "open_chain", repository, chain=str(seen.chain_id), **secret)
    return answering_chains.read(answer, OpenedChain)


def _open_typed(
    request: HttpRequest, repository: Repository, seen: SeenChain, typed: str, form: ImportForm
) -> OpenedChain:
    """Raises WrongPassword, attempts.TooManyAttempts; both are written to the audit trail."""
    try:
        begun = _begun(seen)
    except attempts.TooManyAttempts:
        _refused(request, repository, seen, "blocked", Severity.HIGH)
        raise
    try:
        opened = _open(request, repository, seen, password=typed, wanted=form.wanted())
    except (questions.NoAnswer, questions.Refused):
        _take_back(begun)  # nothing was compared, or it was not told
        raise
    if not opened.passwords:
        _refused(request, repository, seen, "wrong", Severity.NOTICE)
        raise WrongPassword
    _take_back(begun)
    return opened


def _begun(seen: SeenChain) -> list[VerifyAttempt]:
    """Count for the chain and for the records of its slots: a record is not guessed through many chains either."""
    records = {slot.record for slot in seen.slots if slot.kind == "password"}
    return [attempts.begin(subject) for subject in sorted({seen.chain_id, *records})]


def _take_back(begun: list[VerifyAttempt]) -> None:
    for attempt in begun:
        attempt.delete()


def _refused(request: HttpRequest, repository: Repository, seen: SeenChain, result: str, severity: str) -> None:
    after = {"chain": str(seen.chain_id), "result": result}
    audit.record(request, "chain import refused", repository, after=after, severity=severity)


def _keep_record(request: HttpRequest, opened: OpenedChain, name: str) -> None:
    """Make a record of the password under the id that the newest file knows it by."""
    newest = max(opened.passwords, key=lambda right: right.version)
    try:
        with transaction.atomic():
            record = importing.keep_password(newest, name, signed_in(request))
            after = {"name": name, "hint": newest.hint, "version": newest.version, "from": str(opened.chain.chain_id)}
            audit.record(request, "password created", record, after=after, severity=Severity.NOTICE)
    except CannotKeep as error:
        messages.warning(request, f"No password record was made: {error}")
    else:
        messages.success(request, f"The password record “{name}” opens these points.")


def say_taken(request: HttpRequest, taken: importing.TakenOver) -> None:
    """Tell what came of it on the next page."""
    what = []
    if taken.points:
        what.append(f"{taken.points:,} restore point{'' if taken.points == 1 else 's'} taken over")
    if taken.keys:
        what.append(f"{taken.keys:,} known point{' is' if taken.keys == 1 else 's are'} readable again")
    if what:
        messages.success(request, f"{' and '.join(what)}: restore them like any other.")
    else:
        messages.info(request, "Everything that opens was in the catalogue already.")


def facts_of(taken: importing.TakenOver, seen: SeenChain) -> dict[str, Any]:
    """Return what the audit trail keeps: what was taken over, and what was not."""
    counted = {standing: sum(file.standing == standing for file in seen.files) for standing in Standing}
    left = {standing.value: number for standing, number in counted.items() if number and standing != Standing.JOINED}
    return {"points": taken.points, "keys": taken.keys, "encrypted": seen.encrypted, **left}


@dataclass(frozen=True)
class FileRow:
    """One file beside what the catalogue has of it."""

    file: SeenFile
    point: RestorePoint | None
    state: str
    tone: str
    kind: str  # of backup; empty while it was not opened
    taken_at: datetime | None
    signed: str


def _context(repository: Repository, seen: SeenChain) -> dict[str, Any]:
    chain = Chain.objects.filter(uuid=seen.chain_id, repository=repository).first()
    points = {point.uuid: point for point in chain.points.all()} if chain else {}
    ours = public_bytes()
    rows = [_row(file, points, ours) for file in reversed(seen.files)]
    apart = [row for row in rows if row.file.standing in importing.SET_APART]
    others = [row for row in rows if row.file.standing not in importing.SET_APART]
    waits = any(row.state in (CLOSED, UNOPENED) or row.file.standing == Standing.ORPHAN for row in rows)
    kinds = {slot.kind for slot in seen.slots}
    return {
        "repository": repository,
        "chain_id": seen.chain_id,
        "seen": seen,
        "chain": chain,
        "rows": [*apart, *others][:FILES_SHOWN],
        "left_out": max(0, len(rows) - FILES_SHOWN),
        "apart": len(apart),
        "waits": waits or not chain,
        "length": sum(file.length for file in seen.files),
        "own": any(slot.here for slot in seen.slots),
        "kms": "kms" in kinds,
        "servers": "kms" in kinds and KmsServer.objects.exists(),
        "strict": STRICT if is_strict(seen.chain_id) else "",
        "recovery": "recovery" in kinds,
        "requests": open_requests(repository, seen.chain_id),
    }


def open_requests(repository: Repository, chain_id: UUID) -> QuerySet[RecoveryRequest]:
    """Return the recovery requests of a chain that can still be answered."""
    return RecoveryRequest.objects.filter(
        repository=repository, chain_uuid=chain_id, answered_at=None, expires_at__gt=timezone.now()
    )


READABLE, CLOSED, UNOPENED = "in the catalogue", "closed", "not opened yet"
APART = {
    Standing.DAMAGED: ("damaged", "bad"),
    Standing.FOREIGN: ("foreign", "bad"),
    Standing.FORK: ("fork", "bad"),
    Standing.ORPHAN: ("incomplete", "bad"),
}


def _row(file: SeenFile, points: dict[UUID, RestorePoint], ours: bytes | None) -> FileRow:
    point = points.get(file.file_id) if file.file_id else None
    state, tone = _state(file, point)
    told = point or file.sealed
    return FileRow(
        file, point, state, tone, told.kind if told else "", told.started_at if told else None, _signed(file, ours)
    )


def _state(file: SeenFile, point: RestorePoint | None) -> tuple[str, str]:
    if not file.standing:
        return (UNOPENED, "quietly") if file.file_id else APART[Standing.DAMAGED]
    if file.standing in APART:
        return APART[Standing(file.standing)]
    if point is None:
        return (CLOSED, "warn") if file.standing == Standing.CLOSED else (UNOPENED, "quietly")
    readable = not file.encrypted or point.file_key_sealed is not None
    return (READABLE, "good") if readable else (CLOSED, "warn")


def _signed(file: SeenFile, ours: bytes | None) -> str:
    """Say who signed a file that was opened."""
    if file.sealed is None:
        return ""
    if not file.signer:
        return "unsigned"
    return "this console" if ours and file.signer == ours.hex() else f"unknown signer {file.signer[:16]}"


def _passwords(seen: SeenChain) -> list[Any]:
    return [slot for slot in seen.slots if slot.kind == "password"]


def _page(request: HttpRequest, context: dict[str, Any], status: int = 200) -> HttpResponse:
    return no_store(render(request, "repositories/chain_import.html", context, status=status))
