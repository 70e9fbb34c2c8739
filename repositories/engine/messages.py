"""MessagePack inside sealed items, read strictly: what is not exactly the expected structure is Malformed.

Which structure that is, and what its values may be, is decided by the module of each item.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from repositories.engine.layout import Malformed

_T = TypeVar("_T")


def decode(raw: bytes, kind: type[_T], name: str) -> _T:
    """`name` stands in the sentence. Raises Malformed and nothing else: also for deep nesting and broken text."""
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except msgspec.DecodeError as error:
        raise Malformed(f"{name} cannot be read: {error}") from None
    except UnicodeDecodeError:
        raise Malformed(f"{name} cannot be read: a text in it is not UTF-8") from None
    except RecursionError:
        raise Malformed(f"{name} cannot be read: it is nested too deeply") from None
