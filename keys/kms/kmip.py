"""A key management server that speaks KMIP 1.4 over mutual TLS.

The messages are PyKMIP's; its client is not used, for it neither checks the server's name nor bounds an answer. What
PyKMIP cannot say is not relied on: the hash of the mask (MGF1), so that a server has its own, found by a round trip;
and links between objects, so that a replaced pair is found by its name. The pair of generation n is named
NAME-n, its public half NAME-n-public. A server's own re-key gives the name to the new pair; an administrator whose
server has none makes a pair named NAME-(n+1).

Whatever a server sends is bounded before it is read, and what cannot be understood is KmsGarbage.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from kmip.core import enums, objects, primitives, secrets
from kmip.core.attributes import CryptographicParameters, UniqueIdentifier
from kmip.core.factories.attributes import AttributeFactory
from kmip.core.messages import contents, messages, payloads
from kmip.core.utils import BytearrayStream

from keys import crypto_rsa
from keys.crypto_errors import BadPublicKey
from keys.crypto_rsa import Oaep
from keys.kms.interface import (
    KeyPair,
    KmsAway,
    KmsError,
    KmsGarbage,
    KmsKeyGone,
    KmsRefused,
    KmsUntrusted,
    PairState,
    ServerAddress,
)
from keys.kms.tls import Channel

MOST_BYTES_OF_AN_ANSWER = 1 << 20
MOST_BYTES_OF_AN_ID = 185  # what a key slot has room for
VERSION = enums.KMIPVersion.KMIP_1_4
Operation = enums.Operation
Pykmip = Any  # PyKMIP has no annotations: an enumeration, a payload, an attribute of it
_HEADER = struct.Struct("!I I")  # tag and type (a structure), length
_ANSWER = 0x42007B01

# A state as KMIP names it. What is deactivated or compromised may yet be opened by the server's administrator.
STATES = {
    enums.State.PRE_ACTIVE: PairState.DISABLED,
    enums.State.ACTIVE: PairState.ACTIVE,
    enums.State.DEACTIVATED: PairState.DISABLED,
    enums.State.COMPROMISED: PairState.DISABLED,
    enums.State.DESTROYED: PairState.DESTROYED,
    enums.State.DESTROYED_COMPROMISED: PairState.DESTROYED,
}
ENDS = ("Deactivation Date", "Destroy Date")

REFUSALS: dict[Any, type[KmsError]] = {
    enums.ResultReason.ITEM_NOT_FOUND: KmsKeyGone,
    enums.ResultReason.OBJECT_NOT_FOUND: KmsKeyGone,
    enums.ResultReason.OBJECT_DESTROYED: KmsKeyGone,
    enums.ResultReason.AUTHENTICATION_NOT_SUCCESSFUL: KmsUntrusted,
}

HASHES = {
    Oaep.SHA256: enums.HashingAlgorithm.SHA_256,
    Oaep.SHA256_MGF1_SHA1: enums.HashingAlgorithm.SHA_256,
    Oaep.SHA1: enums.HashingAlgorithm.SHA_1,
}


class Kmip:
    """A connection to one server (keys.kms.interface.Kms): opened by `with`, one call at a time."""

    def __init__(self, address: ServerAddress) -> None:
        self._address = address
        self._channel: Channel | None = None
        self._deadline = 0.0

    def __enter__(self) -> Self:
        self._channel = Channel(self._address)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def create_key_pair(self, name: str, bits: int) -> KeyPair:
        return self._create(f"{name}-1", bits)

    def public_key(self, public_id: str) -> bytes:
        with self._call():
            return self._public_half(public_id)

    def unwrap(self, private_id: str, encapsulated: bytes, oaep: Oaep) -> bytes:
        with self._call():
            parameters = CryptographicParameters(
                padding_method=enums.PaddingMethod.OAEP,
                hashing_algorithm=HASHES[oaep],
                cryptographic_algorithm=enums.CryptographicAlgorithm.RSA,
            )
            request = payloads.DecryptRequestPayload(private_id, parameters, encapsulated)
            secret = self._ask(Operation.DECRYPT, request).data
            if not isinstance(secret, bytes) or not secret:
                raise self._garbage("no data")
            return secret

    def private_key(self, private_id: str) -> bytes:
        with self._call():
            key = serialization.load_der_private_key(self._material(private_id, secrets.PrivateKey), password=None)
            if not isinstance(key, rsa.RSAPrivateKey):
                raise self._garbage("a private key that is not RSA")
            return key.private_bytes(
                serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )

    def state(self, private_id: str) -> PairState:
        with self._call():
            try:
                found = self._attributes(private_id, ("State", *ENDS))
            except KmsKeyGone:
                return PairState.GONE
            state = STATES[found["State"]]
            is_ending = state is PairState.ACTIVE and any(name in found for name in ENDS)
            return PairState.SCHEDULED if is_ending else state

    def rotated(self, name: str, generation: int, known: Collection[str]) -> KeyPair | None:
        with self._call():
            for each in range(generation + 1, 0, -1):
                pair = self._named(f"{name}-{each}", known)
                if pair is not None:
                    return pair
            return None

    def rotate(self, name: str, generation: int, bits: int) -> KeyPair:
        return self._create(f"{name}-{generation + 1}", bits)

    def destroy(self, pair: KeyPair) -> None:
        for object_id in (pair.private_id, pair.public_id):
            with self._call():
                reason = objects.RevocationReason(enums.RevocationReasonCode.CESSATION_OF_OPERATION)
                unique = UniqueIdentifier(object_id)
                self._ask(Operation.REVOKE, payloads.RevokeRequestPayload(unique, reason))
                self._ask(Operation.DESTROY, payloads.DestroyRequestPayload(UniqueIdentifier(object_id)))

    def _create(self, name: str, bits: int) -> KeyPair:
        with self._call():
            answer = self._ask(Operation.CREATE_KEY_PAIR, _pair_request(name, bits))
            private_id = self._checked_id(answer.private_key_unique_identifier)
            public_id = self._checked_id(answer.public_key_unique_identifier)
            for object_id in (private_id, public_id):
                self._ask(Operation.ACTIVATE, payloads.ActivateRequestPayload(UniqueIdentifier(object_id)))
            return KeyPair(private_id, public_id, self._public_half(public_id))

    def _named(self, name: str, known: Collection[str]) -> KeyPair | None:
        """Return the active pair of this name that is not known yet."""
        private = self._located(name, enums.ObjectType.PRIVATE_KEY, known)
        public = self._located(f"{name}-public", enums.ObjectType.PUBLIC_KEY, known) if private else None
        if private is None or public is None:
            return None
        return KeyPair(private, public, self._public_half(public))

    def _located(self, name: str, kind: Pykmip, known: Collection[str]) -> str | None:
        """Return the newest active object of this name and kind that is not known yet."""
        make = AttributeFactory().create_attribute
        wanted = [
            make(enums.AttributeType.NAME, name),
            make(enums.AttributeType.OBJECT_TYPE, kind),
            make(enums.AttributeType.STATE, enums.State.ACTIVE),
        ]
        answer = self._ask(Operation.LOCATE, payloads.LocateRequestPayload(attributes=wanted))
        return next((self._checked_id(found) for found in answer.unique_identifiers if found not in known), None)

    def _attributes(self, object_id: str, names: Collection[str]) -> dict[str, Any]:
        request = payloads.GetAttributesRequestPayload(object_id, list(names))
        found = self._ask(Operation.GET_ATTRIBUTES, request).attributes
        return {each.attribute_name.value: each.attribute_value.value for each in found}

    def _public_half(self, public_id: str) -> bytes:
        key = serialization.load_der_public_key(self._material(public_id, secrets.PublicKey))
        public = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        try:
            crypto_rsa.public_key(public)
        except BadPublicKey as error:
            raise self._garbage(str(error)) from None
        return public

    def _material(self, object_id: str, kind: type[Any]) -> bytes:
        secret = self._ask(Operation.GET, payloads.GetRequestPayload(unique_identifier=object_id)).secret
        if not isinstance(secret, kind):
            raise self._garbage("another kind of object")
        material: bytes = secret.key_block.key_value.key_material.value
        return material

    def _checked_id(self, found: object) -> str:
        if not isinstance(found, str) or not 0 < len(found.encode()) <= MOST_BYTES_OF_AN_ID:
            raise self._garbage("an id that is none")
        return found

    def _ask(self, operation: Pykmip, request: Pykmip) -> Pykmip:
        """Send one request and return the payload of the answer. Raises KmsError, or whatever PyKMIP stumbles over."""
        item = messages.RequestBatchItem(
            operation=primitives.Enumeration(Operation, operation, tag=enums.Tags.OPERATION), request_payload=request
        )
        header = messages.RequestHeader(
            protocol_version=contents.ProtocolVersion(1, 4), batch_count=contents.BatchCount(1)
        )
        written = BytearrayStream()
        messages.RequestMessage(request_header=header, batch_items=[item]).write(written, VERSION)
        answer = messages.ResponseMessage()
        answer.read(BytearrayStream(self._exchange(bytes(written.buffer))), VERSION)
        (item,) = answer.batch_items
        if item.result_status.value is not enums.ResultStatus.SUCCESS:
            raise self._refusal(operation, item)
        if item.operation is None or item.operation.value is not operation:
            raise self._garbage("an answer to another question")
        return item.response_payload

    def _exchange(self, request: bytes) -> bytes:
        assert self._channel is not None
        self._channel.send(request, self._deadline)
        header = self._channel.receive(_HEADER.size, self._deadline)
        tag, length = _HEADER.unpack(header)
        if tag != _ANSWER or length > MOST_BYTES_OF_AN_ANSWER:
            raise self._garbage("no KMIP answer")
        return header + self._channel.receive(length, self._deadline)

    def _refusal(self, operation: Pykmip, item: Pykmip) -> KmsError:
        reason = item.result_reason.value if item.result_reason else None
        said = item.result_message.value if item.result_message else ""
        kind = REFUSALS.get(reason, KmsRefused)
        what = operation.name.replace("_", " ").lower()
        why = _one_line(said) or (reason.name.replace("_", " ").lower() if reason else "no reason given")
        return kind(f"The KMS server {self._address} refused “{what}”: {why}")

    def _garbage(self, what: str) -> KmsGarbage:
        return KmsGarbage(
            f"The answer of the KMS server {self._address} cannot be understood ({what}). "
            "Check that it speaks KMIP 1.4 on this port."
        )

    @contextmanager
    def _call(self) -> Iterator[None]:
        """One call: it has the address's time altogether. After a failure in the middle of it nothing can follow."""
        if self._channel is None:
            raise KmsAway(f"The connection to the KMS server {self._address} is closed. Try again.")
        self._deadline = time.monotonic() + self._address.timeout_seconds
        try:
            yield
        except (KmsRefused, KmsKeyGone):
            raise
        except KmsError:
            self._close()
            raise
        except Exception as error:  # noqa: BLE001 - PyKMIP and the parsers of keys stumble in many ways over bad bytes
            self._close()
            raise self._garbage(type(error).__name__) from None

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._channel = None


def _pair_request(name: str, bits: int) -> Pykmip:
    make = AttributeFactory().create_attribute
    mask = enums.CryptographicUsageMask
    common = [
        make(enums.AttributeType.CRYPTOGRAPHIC_ALGORITHM, enums.CryptographicAlgorithm.RSA),
        make(enums.AttributeType.CRYPTOGRAPHIC_LENGTH, bits),
    ]
    private = [
        make(enums.AttributeType.NAME, name),
        make(enums.AttributeType.CRYPTOGRAPHIC_USAGE_MASK, [mask.DECRYPT, mask.UNWRAP_KEY]),
    ]
    public = [
        make(enums.AttributeType.NAME, f"{name}-public"),
        make(enums.AttributeType.CRYPTOGRAPHIC_USAGE_MASK, [mask.ENCRYPT, mask.WRAP_KEY]),
    ]
    template, tags = objects.TemplateAttribute, enums.Tags
    return payloads.CreateKeyPairRequestPayload(
        template(attributes=common, tag=tags.COMMON_TEMPLATE_ATTRIBUTE),
        template(attributes=private, tag=tags.PRIVATE_KEY_TEMPLATE_ATTRIBUTE),
        template(attributes=public, tag=tags.PUBLIC_KEY_TEMPLATE_ATTRIBUTE),
    )


def _one_line(text: str) -> str:
    """Return what a server said as it can stand in a sentence of ours."""
    line = "".join(letter if letter.isprintable() else " " for letter in text[:200]).strip()
    return line if not line or line.endswith(".") else f"{line}."
