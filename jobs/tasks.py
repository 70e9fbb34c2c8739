"""The django-q2 tasks: each takes one id, fetches, calls."""

from __future__ import annotations

from jobs import answering, running, ticking


def run_session(session_id: int) -> None:
    running.run(session_id)


def answer_question(question_id: int) -> None:
    answering.answer(question_id)


def tick() -> None:
    ticking.tick()
