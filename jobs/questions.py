"""Quick questions to a proxy: list a folder, check sources, a repository or a target.

The question and its answer are sealed rows; the queue carries only the id. What is answered is decided in
`jobs.answering`.
"""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone
from django_q.tasks import async_task

from backupsite.models import User
from jobs.models import Proxy, Question, QuestionState
from keys.sealing import seal_for, unseal_for

KINDS = (
    "list_folder",
    "check_sources",
    "check_repository",
    "check_target",
    "require_encryption",
    "unknown_chains",
    "look_at_chain",
    "open_chain",
    "recovery_slots",
)
POLL_SECONDS = 0.05
KEPT_FOR = timedelta(minutes=5)


class NoAnswer(Exception):
    """The proxy did not answer in time; str() says what to do."""


class Refused(Exception):
    """The proxy answered that it can't: `code` and `params` say why, str() is the sentence."""

    def __init__(self, code: str, params: dict[str, Any], message: str) -> None:
        super().__init__(message)
        self.code = code
        self.params = params


def ask(
    proxy: Proxy, kind: str, params: dict[str, Any], by: User | None, timeout_seconds: float = 10
) -> dict[str, Any]:
    """Return the proxy's answer.

    Raises NoAnswer or Refused; not to be called inside a transaction, which would hide the question.
    """
    if kind not in KINDS:
        raise ValueError(f"There is no question {kind!r}.")
    question = _put(proxy, kind, params, by)
    try:
        return _wait(question, proxy, timeout_seconds)
    finally:
        Question.objects.filter(pk=question.pk).delete()


def remove_old() -> None:
    """Remove questions that nobody waits for any more: their asker was killed."""
    Question.objects.filter(asked_at__lt=timezone.now() - KEPT_FOR).delete()


def question_of(question: Question) -> tuple[str, dict[str, Any]]:
    content = json.loads(unseal_for(question, "question_sealed"))
    return content["kind"], content["params"]


def store_answer(question: Question, state: QuestionState, answer: dict[str, Any]) -> None:
    """Store an answer, or with state FAILED a refusal (code, params, message), unless the asker has left."""
    sealed = seal_for(question, "answer_sealed", json.dumps(answer).encode())
    Question.objects.filter(pk=question.pk, state=QuestionState.ASKED).update(state=state, answer_sealed=sealed)


def _put(proxy: Proxy, kind: str, params: dict[str, Any], by: User | None) -> Question:
    with transaction.atomic():
        question = Question.objects.create(proxy=proxy, asked_by=by, question_sealed=b"")
        content = json.dumps({"kind": kind, "params": params}).encode()
        question.question_sealed = seal_for(question, "question_sealed", content)
        question.save(update_fields=["question_sealed"])
        async_task("jobs.tasks.answer_question", question.pk, cluster=f"{proxy.cluster}.quick")
    return question


def _wait(question: Question, proxy: Proxy, timeout_seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_seconds
    while True:
        question.refresh_from_db(fields=["state", "answer_sealed"])
        if question.state != QuestionState.ASKED:
            return _read(question)
        if time.monotonic() >= deadline:
            raise NoAnswer(
                f"{proxy.name} did not answer within {timeout_seconds:g} seconds. "
                f"Check that its cluster {proxy.cluster}.quick runs, then try again."
            )
        time.sleep(POLL_SECONDS)


def _read(question: Question) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(unseal_for(question, "answer_sealed"))
    if question.state == QuestionState.FAILED:
        raise Refused(answer["code"], answer["params"], answer["message"])
    return answer
