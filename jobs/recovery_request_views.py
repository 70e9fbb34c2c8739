"""Opening a chain with the help of a recovery key's holder: make a request, carry it away, bring the answer back.

For a lost password, or a KMS that is gone. The private half of a recovery key never comes here; the answer is sealed to
a key of the request and used once. What is asked and answered is decided in `repositories.recovery_requests`.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from django.contrib import messages
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from backupsite import audit
from backupsite.models import Severity
from backupsite.responses import no_store
from backupsite.roles import Right, requires
from jobs import answering_chains, questions
from jobs.import_views import ask, facts_of, say_taken
from jobs.job_views import signed_in
from keys.crypto_errors import CryptoError
from keys.crypto_recovery_request import SlotSecret
from keys.crypto_sealed import CannotOpenSealed
from repositories import importing, recovery_requests
from repositories.foreign import OpenedChain
from repositories.forms_import import RecoveryAnswerForm
from repositories.models import Chain, RecoveryRequest, Repository

CANNOT_USE = (
    CryptoError, CannotOpenSealed, recovery_requests.NotAnswerable, importing.NothingOpened, importing.KnownElsewhere,
    questions.NoAnswer, questions.Refused,
)  # fmt: skip


@requires(Right.KEYS)
@require_POST
def recovery_request_new(request: HttpRequest, uuid: UUID, chain: UUID) -> HttpResponse:
    """Make a request for the closed points of a chain; the folder is looked at by its proxy."""
    repository = get_object_or_404(Repository.objects.visible_to(request.user), uuid=uuid)
    try:
        answer = ask(request, "recovery_slots", repository, chain=str(chain))
        asked = answering_chains.read(answer, recovery_requests.ToAsk)
    except (questions.NoAnswer, questions.Refused) as error:
        messages.error(request, f"No request was made. {error}")
        return redirect("chain_import", uuid, chain)
    with transaction.atomic():
        made = recovery_requests.make(repository, chain, asked, signed_in(request))
        after = {"repository": repository.name, "chain": str(chain), "points": asked.points}
        audit.record(request, "recovery requested", made, after=after, severity=Severity.HIGH)
    return redirect("recovery_request", made.uuid)


@requires(Right.KEYS)
@sensitive_post_parameters("answer")
@require_http_methods(["GET", "HEAD", "POST"])
def recovery_request(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Show a request, and take its answer."""
    made = get_object_or_404(RecoveryRequest.objects.visible_to(request.user).select_related("repository"), uuid=uuid)
    form = RecoveryAnswerForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            _use(request, made, form.cleaned_data["answer"])
            return redirect("chain_import", made.repository.uuid, made.chain_uuid)
        except CANNOT_USE as error:
            audit.record(
                request, "recovery answer refused", made, after={"because": str(error)}, severity=Severity.HIGH
            )
            form.add_error("answer", str(error))
    return no_store(render(request, "repositories/recovery_request.html", _context(made, form)))


@requires(Right.KEYS)
@require_safe
def recovery_request_file(request: HttpRequest, uuid: UUID) -> HttpResponse:
    made = get_object_or_404(RecoveryRequest.objects.visible_to(request.user), uuid=uuid)
    response = HttpResponse(made.text, content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="recovery-request-{str(made.uuid)[:8]}.txt"'
    return no_store(response)


def _use(request: HttpRequest, made: RecoveryRequest, text: str) -> None:
    """Open the chain with what was answered; the answer is used up only together with what came of it."""
    secrets = recovery_requests.read(made, text)
    answer = ask(request, "open_chain", made.repository, chain=str(made.chain_uuid), answered=_plain(secrets))
    opened = answering_chains.read(answer, OpenedChain)
    with transaction.atomic():
        recovery_requests.settle(made)
        taken = importing.store(made.repository, opened.chain)
        after = facts_of(taken, opened.chain) | {"with": "the answer to a recovery request", "request": str(made.uuid)}
        audit.record(request, "recovery answered", taken.chain, after=after, severity=Severity.HIGH)
    say_taken(request, taken)


def _plain(secrets: tuple[SlotSecret, ...]) -> Any:  # noqa: ANN401 - plain values, as a question carries them
    return msgspec.to_builtins(secrets)


def _context(made: RecoveryRequest, form: RecoveryAnswerForm) -> dict[str, Any]:
    asked = recovery_requests.asked_in(made)
    return {
        "made": made,
        "asked": asked,
        "form": form,
        "chain": Chain.objects.filter(uuid=made.chain_uuid, repository=made.repository).first(),
        "keys": sorted({slot.name for file in asked.files for slot in file.slots}),
        "numbers": [file.sequence for file in asked.files],
        "console": asked.console.hex(),
        "open": made.answered_at is None and made.expires_at > timezone.now(),
    }
