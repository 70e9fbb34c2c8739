"""Which blocks a sample takes: a share of all, the same for the same seed.

Every block has a fixed place on a circle, given by a hash of its address; a seed cuts a sector of the circle. The
sectors of consecutive seeds lie side by side, so that with a share of 5 % any 20 seeds in a row cover every block, and
random seeds cover everything over time. The places are no secret: a sample finds damage that befell the repository,
not damage that somebody placed beside the sectors of a seed that was known before.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from uuid import UUID

_CIRCLE = 1 << 64


@dataclass(frozen=True, slots=True)
class Sample:
    """`share` is above 0 and at most 1."""

    share: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"a sample of {self.share} is not a share")

    def takes(self, origin: UUID, number: int) -> bool:
        width = _CIRCLE if self.share >= 1 else int(self.share * _CIRCLE) + 1
        return (_place(origin, number) - self.seed * width) % _CIRCLE < width


def _place(origin: UUID, number: int) -> int:
    digest = hashlib.blake2b(origin.bytes + number.to_bytes(4, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
