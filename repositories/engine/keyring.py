"""The keyring of a point: the chain key, and the file keys of all earlier live points of its chain.

Raw content of the KEYRING item, MessagePack: [chain key, {file id (16 bytes): file key}]. Plain files have none.
A merged file has the file key of the newest file that it replaced, so keyrings written before the merge open it too.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import msgspec

from repositories.engine import messages
from repositories.engine.head import Head
from repositories.engine.messages import Id, Key


class _Packed(msgspec.Struct, array_like=True, frozen=True):
    chain_key: Key
    file_keys: dict[Id, Key]

    def __repr__(self) -> str:
        return f"_Packed({len(self.file_keys)} file keys)"  # not the keys


class Keyring:
    """Keys never show in a repr."""

    def __init__(self, chain_key: bytes, file_keys: dict[UUID, bytes]) -> None:
        self.chain_key, self.file_keys = chain_key, file_keys

    def __repr__(self) -> str:
        return f"Keyring({len(self.file_keys)} file keys)"


def known_keys(head: Head, file_keys: Mapping[UUID, bytes]) -> list[bytes]:
    """The key that opens a file: under its own id, or under that of the newest file that it replaced."""
    return [file_keys[file_id] for file_id in (head.file_id, *head.replaces[-1:]) if file_id in file_keys]


def pack_keyring(keyring: Keyring) -> bytes:
    keys = {file_id.bytes: key for file_id, key in keyring.file_keys.items()}
    return msgspec.msgpack.encode(_Packed(keyring.chain_key, keys))


def parse_keyring(raw: bytes) -> Keyring:
    """Raises Malformed."""
    packed = messages.decode(raw, _Packed, "the keyring")
    chain_key, keys = packed.chain_key, packed.file_keys
    return Keyring(chain_key, {UUID(bytes=file_id): key for file_id, key in keys.items()})
