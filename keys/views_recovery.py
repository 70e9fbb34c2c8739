"""The pages of recovery keys: list, add, make here, prove custody, retire, take back into use, delete.

The private half is on one page only, the answer to the request that made it: nothing keeps it, no session, no message,
no cache. Which restore points have a slot for a key is known and shown in `jobs` (the page named recovery_usage).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import segno
from django.contrib import messages
from django.db import transaction
from django.db.models import ProtectedError
from django.db.models.functions import Lower
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.safestring import SafeString, mark_safe
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from backupsite import audit
from backupsite.models import Severity, User
from backupsite.responses import no_store
from backupsite.roles import Right, requires
from keys import recovery
from keys.attempts import TooManyAttempts
from keys.crypto_recovery import RecoveryPrivate, fingerprint_text
from keys.crypto_sealed import CannotOpenSealed
from keys.crypto_sheet import qr_text, sheet_text
from keys.forms_recovery import PRIVATE, AddForm, AnswerForm, NameForm
from keys.in_use import holders_of
from keys.models import MadeBy, RecoveryKey
from keys.sealing import check_vouched_row

QR_BORDER = 4  # modules; scanners need that much of white


@dataclass(frozen=True)
class Row:
    """What the pages show of a key beside its fields."""

    key: RecoveryKey
    custody: recovery.Custody
    due: bool
    fingerprint: str
    vouched: bool


def _row(key: RecoveryKey, now: datetime) -> Row:
    public = bytes(key.public)
    due = recovery.custody_due(key, now)
    return Row(key, recovery.custody_of(key, now), due, fingerprint_text(public), _is_vouched(key))


def _is_vouched(key: RecoveryKey) -> bool:
    try:
        check_vouched_row(key, "proof")
    except CannotOpenSealed:
        return False
    return True


@requires(Right.KEYS)
@require_safe
def recovery_list(request: HttpRequest) -> HttpResponse:
    keys = RecoveryKey.objects.visible_to(request.user).order_by("retired_at", Lower("name"))
    now = timezone.now()
    rows = [_row(key, now) for key in keys]
    context = {"active": [row for row in rows if row.key.retired_at is None], "rows": rows}
    context["retired"] = [row for row in rows if row.key.retired_at is not None]
    return render(request, "keys/recovery_list.html", context)


@requires(Right.KEYS)
@sensitive_post_parameters("public")
@require_http_methods(["GET", "HEAD", "POST"])
def recovery_add(request: HttpRequest) -> HttpResponse:
    """Take the public half of a pair that was made offline."""
    form = AddForm(_posted(request))
    _note_private(request, form, None)
    if request.method == "POST" and form.is_valid():
        with transaction.atomic():
            data = form.cleaned_data
            key = recovery.add(data["name"], data["public"], MadeBy.OFFLINE, _by(request))
            _record(request, "recovery key added", key)
        messages.success(request, f"Every new backup file gets a slot for “{key}”. Prove once that the sheet is right.")
        return redirect("recovery_detail", key.uuid)
    return no_store(render(request, "keys/recovery_add.html", {"form": form}))


@requires(Right.KEYS)
@sensitive_variables()
@require_http_methods(["GET", "HEAD", "POST"])
def recovery_make(request: HttpRequest) -> HttpResponse:
    """Make a pair and answer with its sheet: the only time that the private half is anywhere."""
    form = NameForm(_posted(request))
    if request.method != "POST" or not form.is_valid():
        return no_store(render(request, "keys/recovery_make.html", {"form": form}))
    with transaction.atomic():
        key, private = recovery.make(form.cleaned_data["name"], _by(request))
        _record(request, "recovery key made here", key)
    context = {
        "key": key,
        "fingerprint": fingerprint_text(private.public()),
        "console": recovery.console_id().hex(),
        "lines": [line.split() for line in sheet_text(private).splitlines()],
        "qr": _qr(private),
        "site": request.get_host(),
    }
    return no_store(render(request, "keys/recovery_sheet.html", context))


@sensitive_variables()
def _qr(private: RecoveryPrivate) -> SafeString:
    """Return the code as SVG with attributes only: the content security policy allows no styles in it."""
    code = segno.make(qr_text(private), error="q", micro=False)
    svg = code.svg_inline(omitsize=True, border=QR_BORDER, light="#fff", svgclass="qr", lineclass=None, title="QR code")
    return mark_safe(svg)  # noqa: S308  # made by the library, of letters and digits only


@requires(Right.KEYS)
@require_safe
def recovery_detail(request: HttpRequest, uuid: UUID) -> HttpResponse:
    key = _fetch(request, uuid)
    context = {"key": key, "row": _row(key, timezone.now()), "challenges": key.challenges.exclude(answered_at=None)}
    context["last_active"] = not RecoveryKey.objects.active().exclude(pk=key.pk).exists()
    return render(request, "keys/recovery_detail.html", context)


@requires(Right.KEYS)
@sensitive_post_parameters("answer")
@require_http_methods(["GET", "HEAD", "POST"])
def recovery_custody(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Show the challenge that waits, and take its answer; wrong ones are counted and stopped in `recovery`."""
    key = _fetch(request, uuid)
    form = AnswerForm(_posted(request))
    _note_private(request, form, key)
    result, status = "", 200
    if request.method == "POST" and form.is_valid():
        try:
            result = "proven" if recovery.answer(key, form.cleaned_data["answer"]) else "wrong"
        except TooManyAttempts:
            result, status = "blocked", 429
        audit.record(request, "custody answered", key, after={"result": result}, severity=SEVERITIES[result])
    if result == "proven":
        messages.success(
            request, f"Proven: somebody holds the private half of “{key}”. The next proof is due in a year."
        )
        return redirect("recovery_detail", key.uuid)
    context = {"key": key, "form": form, "result": result, "challenge": recovery.open_challenge(key)}
    context |= {"row": _row(key, timezone.now()), "good_for_days": recovery.CHALLENGE_GOOD_FOR.days}
    return no_store(render(request, "keys/recovery_custody.html", context, status=status))


SEVERITIES = {"proven": Severity.HIGH, "wrong": Severity.NOTICE, "blocked": Severity.HIGH}


@requires(Right.KEYS)
@require_POST
def recovery_challenge(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """Make a new challenge, in the place of one that was not answered."""
    key = _fetch(request, uuid)
    try:
        with transaction.atomic():
            recovery.challenge(key, _by(request))
            audit.record(request, "custody challenge made", key, severity=Severity.NOTICE)
    except CannotOpenSealed as error:
        messages.error(request, _changed_outside(error))
    return redirect("recovery_custody", key.uuid)


@requires(Right.KEYS)
@require_safe
def recovery_challenge_file(request: HttpRequest, uuid: UUID) -> HttpResponse:
    """The challenge as a file, to be carried to where the sheet is."""
    challenge = recovery.open_challenge(_fetch(request, uuid))
    if challenge is None:
        raise Http404("No challenge waits for an answer.")
    response = HttpResponse(challenge.text, content_type="text/plain; charset=us-ascii")
    response["Content-Disposition"] = f'attachment; filename="challenge-{challenge.made_at:%Y-%m-%d}.txt"'
    return no_store(response)


@requires(Right.KEYS)
@require_http_methods(["GET", "HEAD", "POST"])
def recovery_retire(request: HttpRequest, uuid: UUID) -> HttpResponse:
    key = _fetch(request, uuid)
    if request.method == "POST":
        return _changed(request, key, retired=True)
    others = RecoveryKey.objects.active().exclude(pk=key.pk).count()
    return render(request, "keys/recovery_retire.html", {"key": key, "others": others})


@requires(Right.KEYS)
@require_POST
def recovery_take_back(request: HttpRequest, uuid: UUID) -> HttpResponse:
    return _changed(request, _fetch(request, uuid), retired=False)


def _changed(request: HttpRequest, key: RecoveryKey, *, retired: bool) -> HttpResponse:
    """Retire a key or take it back, and say so; a row that was changed from outside stays as it is."""
    action = "recovery key retired" if retired else "recovery key taken back into use"
    before, after = {"retired": key.retired_at is not None}, {"retired": retired}
    try:
        with transaction.atomic():
            (recovery.retire if retired else recovery.take_back)(key)
            audit.record(request, action, key, before=before, after=after, severity=Severity.HIGH)
    except CannotOpenSealed as error:
        messages.error(request, _changed_outside(error))
    else:
        slots = "no slot any more; those that exist stay" if retired else "a slot again"
        messages.success(request, f"New backup files get {slots} for “{key}”.")
    return redirect("recovery_detail", key.uuid)


@requires(Right.KEYS)
@require_http_methods(["GET", "HEAD", "POST"])
def recovery_delete(request: HttpRequest, uuid: UUID) -> HttpResponse:
    key = _fetch(request, uuid)
    itself = RecoveryKey.objects.filter(pk=key.pk)
    holders = holders_of(itself) if request.method == "POST" else []
    if request.method == "POST" and not holders:
        try:
            with transaction.atomic():
                _record(request, "recovery key deleted", key)
                key.delete()
        except ProtectedError:  # a session wrote a slot for it a moment ago
            holders = holders_of(itself)
        else:
            messages.success(request, f"The recovery key “{key}” is deleted.")
            return redirect("recovery_list")
    return render(request, "keys/recovery_delete.html", {"key": key, "holders": holders})


def _fetch(request: HttpRequest, uuid: UUID) -> RecoveryKey:
    return get_object_or_404(RecoveryKey.objects.visible_to(request.user).select_related("created_by"), uuid=uuid)


def _record(request: HttpRequest, action: str, key: RecoveryKey) -> None:
    after = {"name": key.name, "fingerprint": fingerprint_text(bytes(key.public)), "made by": key.made_by}
    audit.record(request, action, key, after=after, severity=Severity.HIGH)


def _note_private(request: HttpRequest, form: AddForm | AnswerForm, key: RecoveryKey | None) -> None:
    """A private half that was typed here has left its holder's hands: that is worth knowing later."""
    if request.method == "POST" and any(form.has_error(name, PRIVATE) for name in form.fields):
        audit.record(request, "private half typed", key, severity=Severity.HIGH)


def _changed_outside(error: CannotOpenSealed) -> str:
    return (
        f"Nothing was done: {error} While this is so, no encrypted session runs. Delete the key if no restore point "
        "has a slot for it, or bring its row back from a backup of the console."
    )


def _posted(request: HttpRequest) -> QueryDict | None:
    return request.POST if request.method == "POST" else None


def _by(request: HttpRequest) -> User | None:
    return request.user if isinstance(request.user, User) else None
