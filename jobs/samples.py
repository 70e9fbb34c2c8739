"""The graph of a running session: at most 300 samples, however long it runs.

Pure: instants come in as seconds since the start. When the graph is full, neighbours are merged and each sample stands
for twice as long.
"""

from __future__ import annotations

from dataclasses import dataclass, field

MOST_SAMPLES = 300


@dataclass
class Graph:
    """Samples of [seconds since the start, read bytes/s, written bytes/s]."""

    samples: list[list[float]] = field(default_factory=list)
    interval_seconds: float = 1.0
    _last: tuple[float, int, int] = (0.0, 0, 0)

    def add(self, seconds: float, bytes_read: int, bytes_written: int) -> None:
        """Take the totals at an instant; nothing happens before an interval has passed since the last sample."""
        then, read_then, written_then = self._last
        passed = seconds - then
        if passed < self.interval_seconds:
            return
        read = max(0.0, (bytes_read - read_then) / passed)
        written = max(0.0, (bytes_written - written_then) / passed)
        self.samples.append([round(seconds, 1), round(read), round(written)])
        self._last = (seconds, bytes_read, bytes_written)
        if len(self.samples) > MOST_SAMPLES:
            self._merge()

    def _merge(self) -> None:
        pairs = zip(self.samples[::2], self.samples[1::2], strict=False)
        self.samples = [[b[0], round((a[1] + b[1]) / 2), round((a[2] + b[2]) / 2)] for a, b in pairs]
        self.interval_seconds *= 2
