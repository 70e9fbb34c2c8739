"""The seal of a backup file: what it closes over, its hash, its chain MAC and its signature.

Raw content of the SEAL item, 380 bytes:

    0   16  chain id                 16  16  file id
    32   8  sequence                 40   1  encrypted (0 or 1)      41  7  zero
    48  16  parent's file id or zeros
    64  32  parent's seal hash or zeros
    96   4  item number of the keyring (0xFFFFFFFF in plain files)   100  4  of the root    104  4  of the index
    108  4  zero
    112  8  offset of the index record                               120  8  its sealed length
    128 32  SHA-256 of the sealed keyring   160 32  of the sealed root   192 32  of the sealed index
    224 28  zero
    252 32  chain MAC: HMAC-SHA256(chain key, "backupsite 1|chain|" + file id | sequence u64 | parent's seal hash)
    284 32  Ed25519 public key of the console, or zeros
    316 64  its signature over "backupsite 1|sign|" + seal hash, or zeros

    seal hash = SHA-256("backupsite 1|seal|" + the first 284 bytes)

It is sealed like every item, so that a stranger does not learn who is whose parent.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keys import crypto
from repositories.engine.layout import Malformed
from repositories.engine.sealing import INFO

_STATEMENT = struct.Struct("<16s16sQB7x16s32sIII4xQQ32s32s32s28x")
_MAC_BYTES, _KEY_BYTES, _SIGNATURE_BYTES = 32, 32, 64
SEAL_BYTES = _STATEMENT.size + _MAC_BYTES + _KEY_BYTES + _SIGNATURE_BYTES
NO_PARENT = UUID(int=0)
NO_HASH = bytes(32)


@dataclass(frozen=True, slots=True)
class Statement:
    chain_id: UUID
    file_id: UUID
    sequence: int
    encrypted: bool
    parent_id: UUID  # NO_PARENT for the first file of a chain
    parent_seal_hash: bytes
    keyring_number: int
    root_number: int
    index_number: int
    index_offset: int
    index_length: int
    keyring_digest: bytes
    root_digest: bytes
    index_digest: bytes


@dataclass(frozen=True, slots=True)
class Seal:
    statement: Statement
    chain_mac: bytes
    seal_hash: bytes
    signer: bytes  # the public key whose signature holds, or empty


def plain_chain_key(chain_id: UUID) -> bytes:
    """Stands in for the chain key where nothing is secret; anybody can compute it."""
    return hashlib.sha256(INFO + b"plain chain|" + chain_id.bytes).digest()


def pack_seal(statement: Statement, chain_key: bytes, signer: Ed25519PrivateKey | None) -> tuple[bytes, bytes]:
    """Returns the raw content of the SEAL item and the seal hash."""
    packed = _pack_statement(statement)
    closed = packed + _chain_mac(statement, chain_key)
    seal_hash = _hash(closed)
    if signer is None:
        return closed + bytes(_KEY_BYTES + _SIGNATURE_BYTES), seal_hash
    public = signer.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return closed + public + signer.sign(INFO + b"sign|" + seal_hash), seal_hash


def parse_seal(raw: bytes) -> Seal:
    """Raises Malformed, also for a signature that does not hold. The chain MAC is compared by check_chain_mac()."""
    if len(raw) != SEAL_BYTES:
        raise Malformed("the seal has a wrong length")
    chain, file, sequence, encrypted, parent, parent_hash, *rest = _STATEMENT.unpack_from(raw)
    statement = Statement(
        UUID(bytes=chain), UUID(bytes=file), sequence, bool(encrypted), UUID(bytes=parent), parent_hash, *rest
    )
    closed, public, signature = raw[:-96], raw[-96:-64], raw[-64:]
    if _pack_statement(statement) != raw[: _STATEMENT.size]:
        raise Malformed("the seal has stray bytes")
    seal_hash = _hash(closed)
    return Seal(statement, closed[-_MAC_BYTES:], seal_hash, _checked_signer(public, signature, seal_hash))


def check_chain_mac(seal: Seal, chain_key: bytes) -> None:
    """Raises Malformed if the file was not sealed by a holder of the chain key."""
    if not crypto.equal(seal.chain_mac, _chain_mac(seal.statement, chain_key)):
        raise Malformed("the seal was not made with the chain's key")


def _pack_statement(s: Statement) -> bytes:
    return _STATEMENT.pack(
        s.chain_id.bytes,
        s.file_id.bytes,
        s.sequence,
        s.encrypted,
        s.parent_id.bytes,
        s.parent_seal_hash,
        s.keyring_number,
        s.root_number,
        s.index_number,
        s.index_offset,
        s.index_length,
        s.keyring_digest,
        s.root_digest,
        s.index_digest,
    )


def _chain_mac(s: Statement, chain_key: bytes) -> bytes:
    message = INFO + b"chain|" + s.file_id.bytes + struct.pack("<Q", s.sequence) + s.parent_seal_hash
    return crypto.hmac_sha256(chain_key, message)


def _hash(closed: bytes) -> bytes:
    return hashlib.sha256(INFO + b"seal|" + closed).digest()


def _checked_signer(public: bytes, signature: bytes, seal_hash: bytes) -> bytes:
    if not any(public) and not any(signature):
        return b""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, INFO + b"sign|" + seal_hash)
    except InvalidSignature:
        raise Malformed("the signature does not hold") from None
    return public
