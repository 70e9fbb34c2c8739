"""Which keys a new file of a chain gets: its slots, and the keyring that makes it open the whole chain.

How a slot is made is left to keys/crypto_slots.py; what a keyring looks like, to keyring.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from keys import crypto
from keys.crypto_errors import CryptoError
from keys.crypto_recipients import Recipient
from keys.crypto_slots import Slot, read_slots, wrap
from repositories.engine import chains
from repositories.engine.errors import BadOrder
from repositories.engine.keyring import Keyring
from repositories.engine.reader import Point


def new_slots(
    recipients: Sequence[Recipient], file_key: bytes | None, *, chain_id: UUID, file_id: UUID
) -> tuple[Slot, ...]:
    """One slot a recipient; none for a plain file. Raises BadOrder for what no slot can hold."""
    if file_key is None:
        return ()
    try:
        wrapped = [wrap(one, file_key, chain_id=chain_id, file_id=file_id) for one in recipients]
        return tuple(read_slots(b"".join(wrapped), len(wrapped))[0])
    except CryptoError as error:
        raise BadOrder(f"The key slots cannot be written: {error}") from None


def first_keyring() -> Keyring:
    """That of the first file of an encrypted chain."""
    return Keyring(crypto.random_key(), {})


def next_keyring(parent: Point) -> Keyring | None:
    """The parent's keys and the parent's own, without those that open nothing any more; None in plain chains.

    A key is still needed if its file is there, or one that replaced it: a merged file has the key of the newest file
    that it replaced. If a head cannot be read, all are kept.
    """
    if parent.keyring is None or parent.file_key is None:
        return None
    known = {**parent.keyring.file_keys, parent.head.file_id: parent.file_key}
    chain = chains.scan_chain(parent.path.parent)
    heads = [file.head for file in chain.files]
    live = {file_id for head in heads if head for file_id in (head.file_id, *head.replaces)}
    kept = {file_id: key for file_id, key in known.items() if file_id in live or None in heads}
    return Keyring(parent.keyring.chain_key, kept)
