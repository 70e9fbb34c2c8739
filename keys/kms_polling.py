"""What a poll of a key management server looks at: the state of every pair, rotations, and whether it still opens.

It stores what it learned and reports what changed; whom that concerns (jobs, restore points) and what becomes of the
session is decided in `jobs.kms_polling`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from django.db import transaction
from django.utils import timezone

from keys.kms.interface import Kms, KmsError, KmsGarbage, KmsKeyGone, KmsRefused
from keys.kms_servers import add_version, connected, pair_name, pair_of, prove
from keys.models import KeyState, KmsKey, KmsKeyVersion, KmsServer

DOES_NOT_OPEN = (KmsRefused, KmsKeyGone, KmsGarbage)


@dataclass(frozen=True)
class StateSeen:
    """A pair that is not active, and what was known of it before."""

    version: KmsKeyVersion
    before: KeyState
    now: KeyState

    @property
    def is_new(self) -> bool:
        return self.before != self.now


@dataclass
class Report:
    """`problems` are sentences: what could not be asked, or did not work. `stopped`: it was ended before its end.

    `tell` is called with each pair that is not active as its state is stored: no alarm is lost if the poll ends early.
    """

    keys: int = 0
    asked: int = 0
    proven: int = 0
    closed: list[StateSeen] = field(default_factory=list)
    opened_again: list[KmsKeyVersion] = field(default_factory=list)
    rotated: list[KmsKeyVersion] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    stopped: bool = False
    tell: Callable[[StateSeen], None] = lambda seen: None


def poll(
    server: KmsServer,
    should_stop: Callable[[], bool] = lambda: False,
    tell: Callable[[StateSeen], None] = lambda seen: None,
) -> Report:
    """Ask the server about all its keys. Raises KmsError when it does not answer; what was learned by then is kept."""
    now = timezone.now()
    KmsServer.objects.filter(pk=server.pk).update(polled_at=now)
    report = Report(tell=tell)
    try:
        with connected(server) as kms:
            for key in server.keys.order_by("pk"):
                if should_stop():
                    report.stopped = True
                    return report
                _poll_key(kms, key, report)
            if not report.keys:
                _greet(kms)
    except KmsError as error:
        KmsServer.objects.filter(pk=server.pk).update(problem=str(error))
        raise
    _keep(server, report)
    return report


def _greet(kms: Kms) -> None:
    """With nothing to ask about, at least hear that it answers us; also a refusal is an answer."""
    with suppress(KmsRefused):
        kms.state("no such key")


def _keep(server: KmsServer, report: Report) -> None:
    values: dict[str, object] = {"problem": "\n".join(report.problems)}
    if not report.problems:
        values["answered_at"] = timezone.now()
    KmsServer.objects.filter(pk=server.pk).update(**values)


def _poll_key(kms: Kms, key: KmsKey, report: Report) -> None:
    report.keys += 1
    versions = list(key.versions.select_related("key__server").order_by("number"))
    for version in versions:
        if version.state != KeyState.LOST:
            _ask_state(kms, version, report)
    newest = _newer_pair(kms, key, versions, report) or versions[-1]
    if newest.state == KeyState.ACTIVE:
        _prove(kms, newest, report)


def _ask_state(kms: Kms, version: KmsKeyVersion, report: Report) -> None:
    try:
        state = KeyState(kms.state(version.private_id).value)
    except KmsRefused as error:
        report.problems.append(f"The state of the {version} is not known: {error}")
        return
    report.asked += 1
    before, now = KeyState(version.state), timezone.now()
    version.state, version.checked_at = state, now
    version.state_since = version.state_since if state == before else now
    with transaction.atomic():
        # Whoever declared it lost while the server was asked has the last word.
        rows = KmsKeyVersion.objects.filter(pk=version.pk).exclude(state=KeyState.LOST)
        rows.update(state=state, checked_at=now, state_since=version.state_since)
        if state != KeyState.ACTIVE:
            report.closed.append(StateSeen(version, before, state))
            report.tell(report.closed[-1])
    if state == KeyState.ACTIVE and before != KeyState.ACTIVE:
        report.opened_again.append(version)


def _newer_pair(kms: Kms, key: KmsKey, versions: list[KmsKeyVersion], report: Report) -> KmsKeyVersion | None:
    """Take over a pair that replaced the newest one at the server, once it has proven itself."""
    known = {object_id for version in versions for object_id in (version.private_id, version.public_id)}
    try:
        pair = kms.rotated(pair_name(key.uuid), versions[-1].number, known)
        if pair is None:
            return None
        prove(kms, key.server, pair)
    except DOES_NOT_OPEN as error:
        report.problems.append(f"Whether the {key} was rotated is not known: {error}")
        return None
    report.rotated.append(add_version(key, pair))
    return report.rotated[-1]


def _prove(kms: Kms, version: KmsKeyVersion, report: Report) -> None:
    try:
        prove(kms, version.key.server, pair_of(version))
    except DOES_NOT_OPEN as error:
        report.problems.append(f"The server says that the {version} is active, but does not open with it: {error}")
        return
    report.proven += 1
    KmsKeyVersion.objects.filter(pk=version.pk).update(proven_at=timezone.now())
