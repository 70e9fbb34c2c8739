"""What can go wrong with keys, without saying more than the caller may know. No error carries key bytes."""

from __future__ import annotations

from typing import ClassVar


class CryptoError(Exception):
    """The root of the family; `code` is stable, str() is a full sentence."""

    code: ClassVar[str] = "crypto-error"


class UnwrapFailed(CryptoError):
    """A wrong key, a wrong owner or damage: authenticated encryption cannot tell these apart."""

    code = "unwrap-failed"


class OpenFailed(CryptoError):
    """A sealed value does not verify: a wrong key, a wrong place or damage."""

    code = "open-failed"


class BadSlot(CryptoError):
    """A key slot whose form is not what the format allows."""

    code = "bad-slot"


class KdfRefused(CryptoError):
    """Parameters of a key derivation outside the bounds: either hostile or by mistake."""

    code = "kdf-refused"


class KdfFailed(CryptoError):
    """A key derivation with parameters of a file that had no result: no memory, or its process was ended."""

    code = "kdf-failed"


class BadPassword(CryptoError):
    """A password that cannot be used: empty, or not text."""

    code = "bad-password"


class BadPublicKey(CryptoError):
    """A key of a KMS or of a recovery pair that is not what the format allows, or damaged."""

    code = "bad-public-key"


class BadSheet(CryptoError):
    """The text of a recovery key that cannot be read: letters are missing or wrong."""

    code = "bad-sheet"


class BadText(CryptoError):
    """Text that was pasted or read from a file and is not what it should be, or was changed on the way."""

    code = "bad-text"


class NotForThisKey(CryptoError):
    """A challenge that was made for another recovery key, or opens with none."""

    code = "not-for-this-key"


class ForgedRequest(CryptoError):
    """A recovery request whose signature does not hold: it is not answered."""

    code = "forged-request"


class RequestExpired(CryptoError):
    """A recovery request that came too late."""

    code = "request-expired"
