"""A worker for tests: takes tasks off the real queue and runs them, as django-q2's workers do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pydoc import locate
from typing import Any

import pytest
from django.db import connection
from django_q.brokers import get_broker
from django_q.signing import SignedPackage


class Worker(threading.Thread):
    """Runs what is queued for one cluster until it is told to stop; `errors` are those that tasks raised."""

    def __init__(self, cluster: str) -> None:
        super().__init__(daemon=True)
        self.cluster = cluster
        self.stopping = threading.Event()
        self.errors: list[Exception] = []

    def run(self) -> None:
        broker = get_broker(self.cluster)
        while not self.stopping.is_set():
            for row, payload in broker.dequeue() or ():
                self.work(SignedPackage.loads(payload))
                broker.acknowledge(row)
        connection.close()

    def work(self, task: dict[str, Any]) -> None:
        function: Any = locate(task["func"])
        try:
            function(*task["args"], **task["kwargs"])
        except Exception as error:
            self.errors.append(error)

    def stop(self) -> None:
        self.stopping.set()
        self.join(timeout=10)


@pytest.fixture
def quick_worker(transactional_db: None) -> Iterator[Worker]:
    worker = Worker("local.quick")
    worker.start()
    yield worker
    worker.stop()
