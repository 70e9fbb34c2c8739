"""What a key management server can be asked, whatever its protocol; another kind is one more module beside kmip.py.

Pure: no Django, no database, so that a backup can be recovered without the console. Which server a job uses, what is
kept of its answers and what an outage means is decided in `keys.kms_servers`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import ClassVar, Protocol, Self

from keys.crypto_rsa import Oaep


class KmsError(Exception):
    """The root of the family; `code` is stable, str() is a full sentence that names the server."""

    code: ClassVar[str] = "kms-error"


class KmsAway(KmsError):
    """No answer: not reachable, too slow, or the connection broke. Trying again later may help."""

    code = "kms-away"


class KmsUntrusted(KmsError):
    """One side does not accept the other's certificate: wrong host, expired, another CA, no client usage."""

    code = "kms-untrusted"


class KmsRefused(KmsError):
    """The server answered no: not allowed, or not in this state of the key."""

    code = "kms-refused"


class KmsKeyGone(KmsError):
    """The server does not know the key (any more), or destroyed it."""

    code = "kms-key-gone"


class KmsGarbage(KmsError):
    """An answer that is not what was asked for."""

    code = "kms-garbage"


class KmsMissing(KmsError):
    """The packages that this kind of server needs are not installed."""

    code = "kms-missing"


class PairState(StrEnum):
    """What a server says of a private half."""

    ACTIVE = "active"
    DISABLED = "disabled"  # can be enabled again
    SCHEDULED = "scheduled"  # for deletion
    DESTROYED = "destroyed"
    GONE = "gone"  # it does not know it (any more)


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where a server is, whom it must show itself to be, and who we are to it. Certificates and key are PEM text."""

    kind: str
    host: str
    port: int
    ca_pem: str = field(repr=False)
    certificate_pem: str = field(repr=False)
    private_key_pem: str = field(repr=False)
    name: str = ""
    timeout_seconds: float = 15.0  # for connecting, and for each call

    def __str__(self) -> str:
        place = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"“{self.name}” ({place})" if self.name else place


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A pair as the server made it: its ids, and the public half as DER SubjectPublicKeyInfo."""

    private_id: str
    public_id: str
    public: bytes


class Kms(Protocol):
    """A connection to one server; a context manager. Every call ends within a bounded time.

    All raise the errors above.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def create_key_pair(self, name: str, bits: int) -> KeyPair:
        """Make a pair for wrapping and unwrapping, and activate it."""

    def public_key(self, public_id: str) -> bytes:
        """Return the public half as DER SubjectPublicKeyInfo."""

    def unwrap(self, private_id: str, encapsulated: bytes, oaep: Oaep) -> bytes:
        """Return the secret, decrypted by the server."""

    def private_key(self, private_id: str) -> bytes:
        """Return the private half as DER PKCS#8, where a server can do no better: to be used and dropped."""

    def state(self, private_id: str) -> PairState:
        """Return what the server says of the private half; GONE where it knows none."""

    def rotated(self, name: str, generation: int, known: Collection[str]) -> KeyPair | None:
        """Return the pair that replaced the one of this generation by a rotation at the server, if there is one.

        `name` is what the first pair was made with, `known` are the ids of all pairs that are known already.
        """

    def rotate(self, name: str, generation: int, bits: int) -> KeyPair:
        """Make the pair that replaces the one of this generation. Earlier ones go on opening what they did."""

    def destroy(self, pair: KeyPair) -> None:
        """Destroy a pair for good: for one that was made to try the server, never for one that opens a backup."""
