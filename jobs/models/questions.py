"""Quick questions to a proxy and their answers, sealed."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models

from jobs.models.proxies import Proxy


class QuestionState(models.TextChoices):
    ASKED = "asked", "asked"
    ANSWERED = "answered", "answered"
    FAILED = "failed", "failed"


class Question(models.Model):
    """A quick question to a proxy (list a folder, check a source or a repository). Names are sealed; rows are removed
    when read or old.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    proxy = models.ForeignKey(Proxy, on_delete=models.CASCADE, related_name="questions")
    asked_by = models.ForeignKey(settings.AUTH_USER_MODEL, null=True, on_delete=models.CASCADE, related_name="+")
    asked_at = models.DateTimeField(auto_now_add=True)
    state = models.CharField(max_length=8, choices=QuestionState.choices, default=QuestionState.ASKED)
    question_sealed = models.BinaryField()
    answer_sealed = models.BinaryField(null=True)

    SEALED = {"question_sealed": lambda row: (row.uuid,), "answer_sealed": lambda row: (row.uuid,)}

    def __str__(self) -> str:
        return f"question to {self.proxy}"
