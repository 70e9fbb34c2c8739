"""The proxy's own answers without the queue between: what its quick cluster would say, said in this process."""

from __future__ import annotations

from typing import Any

import pytest

from jobs import answering, questions


def answer_at_once(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let `questions.ask` call the real answers directly; return the list that fills with the kinds that were asked."""
    asked: list[str] = []

    def ask(proxy: Any, kind: str, params: dict[str, Any], by: Any, timeout_seconds: float = 10) -> dict[str, Any]:
        asked.append(kind)
        return answering.ANSWERS[kind](**params)

    monkeypatch.setattr(questions, "ask", ask)
    return asked


def be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the proxy be away: what a console sees whose quick cluster doesn't run, without the wait."""

    def ask(proxy: Any, kind: str, params: dict[str, Any], by: Any, timeout_seconds: float = 10) -> dict[str, Any]:
        raise questions.NoAnswer(f"{proxy.name} did not answer. Check that its cluster runs, then try again.")

    monkeypatch.setattr(questions, "ask", ask)
