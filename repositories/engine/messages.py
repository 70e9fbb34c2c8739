"""MessagePack inside sealed items, read strictly: what is not the expected structure is Malformed. Only further
elements at the end of a record of fields are passed over: a later release may have added them.

Which structure that is, and what its values may be, is decided by the module of each item. Lists have a greatest length
there, so that a small item, which may unpack to the bound of its kind, does not become gigabytes of objects.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from keys.crypto import KEY_BYTES
from repositories.engine.layout import TAG_BYTES, Malformed

_T = TypeVar("_T")

Id = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
Tag = Annotated[bytes, msgspec.Meta(min_length=TAG_BYTES, max_length=TAG_BYTES)]
Key = Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]


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
