"""The machines that read, encrypt and move data."""

from __future__ import annotations

import uuid

from django.db import models

from backupsite.roles import AnyUser, visible


class ProxyQuerySet(models.QuerySet["Proxy"]):
    def visible_to(self, user: AnyUser) -> ProxyQuerySet:
        return visible(self, user)


class Proxy(models.Model):
    """A machine that reads, encrypts and moves data: two django-q2 clusters, `cluster` for sessions and
    `cluster`.quick for answers.
    """

    uuid = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    name = models.CharField(max_length=100, unique=True)
    cluster = models.CharField(max_length=50, unique=True)
    workers = models.PositiveSmallIntegerField(default=2, help_text="How many sessions run here at once.")
    seen_at = models.DateTimeField(null=True)

    objects = ProxyQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "proxies"

    def __str__(self) -> str:
        return self.name
