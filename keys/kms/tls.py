"""One connection over mutual TLS to a key management server: who is trusted, how long is waited, what a failure means.

The server's certificate must lead to the given CA and name the host; a certificate of the system's store counts for
nothing. What is said over the connection is decided by the module of each kind of server.
"""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keys.kms.interface import KmsAway, KmsError, KmsGarbage, KmsUntrusted, ServerAddress

# What OpenSSL found wrong with the server's certificate (X509_V_ERR_...), and what to do about it.
FLAWS = {
    9: "its certificate is not valid yet. Compare the clocks of both machines",
    10: "its certificate has expired. Give the server a new one",
    18: "its certificate is self-signed, and not the CA that is set here. Set the CA that signed it",
    19: "its certificate was not signed by the CA that is set here. Set the CA that signed it",
    20: "its certificate was not signed by the CA that is set here. Set the CA that signed it",
    21: "its certificate was not signed by the CA that is set here. Set the CA that signed it",
    62: "its certificate is for another host name. Use a name that stands in the certificate",
    64: "its certificate is not for this address. Use a host name that stands in the certificate",
}


class Channel:
    """An open connection. Each of its calls ends by `deadline` (of time.monotonic), however slowly bytes arrive."""

    def __init__(self, address: ServerAddress) -> None:
        """Connect. Raises KmsError."""
        self._address = address
        deadline = time.monotonic() + address.timeout_seconds
        with explained(address):
            context = _context(address)
            self._socket = _handshake(_connected(address, deadline), context, address, deadline)

    def send(self, message: bytes, deadline: float) -> None:
        with explained(self._address):
            self._socket.settimeout(_left(deadline))
            self._socket.sendall(message)

    def receive(self, length: int, deadline: float) -> bytes:
        """Return exactly so many bytes; fewer are KmsAway."""
        with explained(self._address):
            received = bytearray()
            while len(received) < length:
                self._socket.settimeout(_left(deadline))
                part = self._socket.recv(length - len(received))
                if not part:
                    raise ConnectionResetError("closed")
                received += part
            return bytes(received)

    def close(self) -> None:
        self._socket.close()


@contextmanager
def explained(address: ServerAddress) -> Iterator[None]:
    """Turn every failure of a connection into the KmsError that says what it means."""
    try:
        yield
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors; a host name that cannot be one is a ValueError
        raise _meaning(error, address) from None


def _meaning(error: OSError | ValueError, address: ServerAddress) -> KmsError:
    server = f"the KMS server {address}"
    if isinstance(error, ssl.SSLCertVerificationError):
        flaw = FLAWS.get(error.verify_code, f"its certificate does not verify: {error.verify_message}")
        return KmsUntrusted(f"We do not trust {server}: {flaw}.")
    if isinstance(error, TimeoutError):
        return KmsAway(
            f"T{server[1:]} did not answer within {address.timeout_seconds:g} seconds. "
            "Check that it runs and that no firewall is between."
        )
    if isinstance(error, socket.gaierror):
        return KmsAway(f"The host name of {server} is not known. Check it, and the name server of this machine.")
    if isinstance(error, ConnectionRefusedError):
        return KmsAway(f"Nothing listens where {server} should be. Check that it runs, and the port.")
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError):
        return KmsAway(
            f"T{server[1:]} closed the connection. Some servers do so when they do not know our certificate; "
            "its log says more."
        )
    if isinstance(error, ssl.SSLError):
        return _meaning_of_tls(error, server)
    if isinstance(error, ValueError):
        return KmsAway(f"“{address.host}” is not a host name that can be connected to.")
    return KmsAway(f"T{server[1:]} cannot be reached: {error.strerror or error}.")


def _meaning_of_tls(error: ssl.SSLError, server: str) -> KmsError:
    reason = error.reason or "no reason given"
    if "ALERT" in reason:
        said = reason.partition("ALERT_")[2].replace("_", " ").lower() or "no reason given"
        return KmsUntrusted(
            f"T{server[1:]} does not accept our client certificate or our way of encrypting ({said}). "
            "Register the certificate there, or replace it here."
        )
    if "PROTOCOL" in reason and "UNSUPPORTED" in reason:
        return KmsUntrusted(f"T{server[1:]} offers no TLS 1.2 or newer. Enable it there.")
    return KmsGarbage(f"What answers as {server} does not speak TLS as it should ({reason}). Check the port.")


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _connected(address: ServerAddress, deadline: float) -> socket.socket:
    """Connect to the first address of the host that answers, all within the deadline; the system's resolver has limits
    of its own.
    """
    problem: OSError = ConnectionRefusedError()
    for family, kind, protocol, _name, place in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
        plain = socket.socket(family, kind, protocol)
        try:
            plain.settimeout(_left(deadline))
            plain.connect(place)
            return plain
        except OSError as error:
            plain.close()
            problem = error
    raise problem


def _handshake(plain: socket.socket, context: ssl.SSLContext, address: ServerAddress, deadline: float) -> ssl.SSLSocket:
    try:
        plain.settimeout(_left(deadline))
        return context.wrap_socket(plain, server_hostname=address.host)
    except BaseException:
        plain.close()
        raise


def _context(address: ServerAddress) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=address.ca_pem)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an intermediate CA may be what is trusted
        with _in_a_file(f"{address.certificate_pem.strip()}\n{address.private_key_pem.strip()}\n") as path:
            context.load_cert_chain(path, password=_refuse_encrypted)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "it is not PEM"
        raise KmsUntrusted(
            f"The certificates set for the KMS server {address} cannot be used ({reason}). Set them anew."
        ) from None
    return context


def _refuse_encrypted() -> str:
    """Answer OpenSSL's question for a passphrase, which would else be put to the terminal."""
    raise ValueError("an encrypted private key")


@contextmanager
def _in_a_file(text: str) -> Iterator[str]:
    """Give the text a path for OpenSSL, which takes nothing else: in memory, or in a folder of our own."""
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        descriptor = os.memfd_create("client certificate", os.MFD_CLOEXEC)
        try:
            with os.fdopen(descriptor, "w", closefd=False) as file:
                file.write(text)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory(prefix="backupsite-") as folder:  # mode 0700
        path = Path(folder) / "client.pem"
        path.touch(mode=0o600)
        path.write_text(text)
        yield str(path)
