"""The keyring of a point: the chain key, and the file keys of all earlier live points of its chain.

Raw content of the KEYRING item, MessagePack: [chain key, {file id (16 bytes): file key}]. Plain files have none.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from keys.crypto import KEY_BYTES
from repositories.engine.layout import Malformed


class Keyring:
    """Keys never show in a repr."""

    def __init__(self, chain_key: bytes, file_keys: dict[UUID, bytes]) -> None:
        self.chain_key, self.file_keys = chain_key, file_keys

    def __repr__(self) -> str:
        return f"Keyring({len(self.file_keys)} file keys)"


def pack_keyring(keyring: Keyring) -> bytes:
    keys = {file_id.bytes: key for file_id, key in keyring.file_keys.items()}
    return msgspec.msgpack.encode([keyring.chain_key, keys])


def parse_keyring(raw: bytes) -> Keyring:
    """Raises Malformed."""
    try:
        chain_key, keys = msgspec.msgpack.decode(raw, type=tuple[bytes, dict[bytes, bytes]])
    except msgspec.DecodeError:
        raise Malformed("the keyring cannot be read") from None
    if len(chain_key) != KEY_BYTES or any(len(i) != 16 or len(key) != KEY_BYTES for i, key in keys.items()):
        raise Malformed("the keyring has a key of a wrong length")
    return Keyring(chain_key, {UUID(bytes=file_id): key for file_id, key in keys.items()})
