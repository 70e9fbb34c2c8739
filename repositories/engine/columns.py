"""Columns of integers, packed so that zstd finds their structure: differences to the previous value where that helps,
then byte planes (the lowest bytes of all values, then the next ones).

Differences wrap around at the width of the column, so that every value fits. Which columns there are, and their
order, is decided by the callers (segments.py, index.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from repositories.engine.layout import Malformed

U32 = np.dtype("<u4")
U64 = np.dtype("<u8")

Array = npt.NDArray[Any]


def pack(values: Array, dtype: np.dtype[Any], *, delta: bool = False) -> bytes:
    column = np.ascontiguousarray(values, dtype=dtype)
    if delta and len(column):
        column = np.diff(column, prepend=column.dtype.type(0))
    return column.view(np.uint8).reshape(-1, dtype.itemsize).T.tobytes()


class ColumnReader:
    """Takes columns from `raw` one after the other, never beyond its end. Raises Malformed."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self._at = raw, 0

    def take(self, count: int, dtype: np.dtype[Any], *, delta: bool = False) -> Array:
        planes = np.frombuffer(self.take_bytes(count * dtype.itemsize), dtype=np.uint8)
        column = np.ascontiguousarray(planes.reshape(dtype.itemsize, count).T).view(dtype).reshape(count)
        return np.cumsum(column, dtype=dtype) if delta else column

    def take_bytes(self, length: int) -> bytes:
        if length > len(self._raw) - self._at:
            raise Malformed("a table is shorter than it says")
        self._at += length
        return self._raw[self._at - length : self._at]

    def end(self) -> None:
        if self._at != len(self._raw):
            raise Malformed("a table is longer than it says")
