"""PyKMIP's server in a process of its own: `python -m tests.kms.server_process FOLDER`, started by tests.kms.server.

Its engine, its sessions and its messages are PyKMIP's, over TLS. What it does beside that is said by FOLDER/mode.json,
read at each request, so that one process serves many tests:

    decrypt     "no" as PyKMIP: refuses asymmetric keys; "sha256", "mgf1-sha1" (SHA-256 with the mask's SHA-1), "sha1"
    releases    whether Get gives private keys
    destroys    whether Destroy is allowed
    ending      ids of keys that have a date on which they are deactivated
    reply       "" as it is; "silent" none; "drip" one byte each tenth of a second; "garbage"; "html"; "huge"; "cut";
                "stranger" the answer to another question; "no-kmip-key" noise where a public key should be

It prints one line of JSON, the ports of its listeners by the name of the certificate each shows (FOLDER/*.pem), and
ends when its standard input is closed: no test leaves it behind.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from kmip.core import enums, exceptions
from kmip.core.messages import payloads
from kmip.core.policy import policies
from kmip.services.server.engine import KmipEngine
from kmip.services.server.session import KmipSession
from sqlalchemy import event

DIFFERENT_PAIRS = 5  # no test makes more that must differ
USUAL = {"decrypt": "sha256", "releases": True, "destroys": True, "ending": [], "reply": ""}
PADDINGS = {
    "sha256": (enums.HashingAlgorithm.SHA_256, hashes.SHA256, hashes.SHA256),
    "mgf1-sha1": (enums.HashingAlgorithm.SHA_256, hashes.SHA256, hashes.SHA1),
    "sha1": (enums.HashingAlgorithm.SHA_1, hashes.SHA1, hashes.SHA1),
}
NOISE = {
    "garbage": bytes(range(256)) * 4,
    "html": b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<h1>Bad Request</h1>",
    "huge": b"\x42\x00\x7b\x01\xff\xff\xff\xf0",
    "empty": b"\x42\x00\x7b\x01\x00\x00\x00\x00",
}


class Engine(KmipEngine):
    """PyKMIP's engine, with an RSA-OAEP decrypt that PyKMIP lacks, and what `mode` says."""

    def __init__(self, folder: Path) -> None:
        super().__init__(policies=copy.deepcopy(policies), database_path=str(folder / "keys.sqlite"))
        self.folder = folder
        event.listen(self._data_store, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
        self._data_store.dispose()
        self._generate = self._cryptography_engine.create_asymmetric_key_pair
        self._generated: dict[int, list[Any]] = {}
        self._cryptography_engine.create_asymmetric_key_pair = self._pair

    def _pair(self, algorithm: Any, length: int) -> Any:
        """Generate a few pairs of each length, then give them in turn: generating is what takes the tests' time."""
        made = self._generated.setdefault(length, [])
        made.append(self._generate(algorithm, length) if len(made) < DIFFERENT_PAIRS else made.pop(0))
        return made[-1]

    @property
    def mode(self) -> dict[str, Any]:
        return {**USUAL, **json.loads((self.folder / "mode.json").read_text())}

    def _process_decrypt(self, payload: Any) -> Any:
        kind = self.mode["decrypt"]
        key = self._get_object_with_access_controls(payload.unique_identifier, enums.Operation.GET)
        if kind == "no" or key._object_type != enums.ObjectType.PRIVATE_KEY:
            return super()._process_decrypt(payload)
        if key.state != enums.State.ACTIVE:
            raise exceptions.PermissionDenied("The decryption key must be in the Active state.")
        if enums.CryptographicUsageMask.DECRYPT not in key.cryptographic_usage_masks:
            raise exceptions.PermissionDenied("The Decrypt bit must be set in the cryptographic usage mask.")
        return payloads.DecryptResponsePayload(payload.unique_identifier, self._opened(key, payload, kind))

    def _opened(self, key: Any, payload: Any, kind: str) -> bytes:
        asked = payload.cryptographic_parameters
        name, main, mask = PADDINGS[kind]
        if asked.padding_method != enums.PaddingMethod.OAEP or asked.hashing_algorithm != name:
            raise exceptions.InvalidField("This padding is not supported.")
        private = serialization.load_der_private_key(key.value, password=None)
        try:
            return private.decrypt(payload.data, padding.OAEP(padding.MGF1(mask()), main(), None))
        except ValueError:
            raise exceptions.CryptographicFailure("The data does not decrypt.") from None

    def _process_get(self, payload: Any) -> Any:
        key = self._get_object_with_access_controls(payload.unique_identifier, enums.Operation.GET)
        if key._object_type == enums.ObjectType.PRIVATE_KEY and not self.mode["releases"]:
            raise exceptions.PermissionDenied("Private keys are not released.")
        answer = super()._process_get(payload)
        if self.mode["reply"] == "no-kmip-key":
            answer.secret.key_block.key_value.key_material.value = os.urandom(300)
        return answer

    def _process_destroy(self, payload: Any) -> Any:
        if not self.mode["destroys"]:
            raise exceptions.PermissionDenied("Destroy is not allowed.")
        return super()._process_destroy(payload)

    def _get_attribute_from_managed_object(self, managed_object: Any, attr_name: str) -> Any:
        if attr_name == "Deactivation Date" and str(managed_object.unique_identifier) in self.mode["ending"]:
            return 2_000_000_000
        return super()._get_attribute_from_managed_object(managed_object, attr_name)


class Connection(KmipSession):
    def _send_response(self, data: bytes) -> None:
        reply, data = self._engine.mode["reply"], bytes(data)
        if reply == "silent":
            return None
        if reply == "cut":
            self._connection.sendall(data[:20])
            self._connection.close()
            raise exceptions.ConnectionClosed()
        if reply == "drip":
            return self._drip(data)
        if reply == "stranger":  # what was done is said to have been Query (24)
            data = re.sub(rb"(\x42\x00\x5c\x05\x00\x00\x00\x04\x00\x00\x00).", rb"\1" + b"\x18", data, flags=re.DOTALL)
        self._connection.sendall(NOISE.get(reply, data))
        return None

    def _drip(self, data: bytes) -> None:
        try:
            for byte in data:
                self._connection.sendall(bytes([byte]))
                time.sleep(0.1)
        except OSError:
            raise exceptions.ConnectionClosed() from None


def listen(folder: Path, certificate: Path, port: int, engine: Engine) -> int:
    """Serve on a port with one certificate; returns the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(folder / "ca.crt")
    context.load_cert_chain(certificate)
    listener = socket.create_server(("127.0.0.1", port), backlog=20)
    threading.Thread(target=serve, args=(listener, context, engine), daemon=True).start()
    found: int = listener.getsockname()[1]
    return found


def serve(listener: socket.socket, context: ssl.SSLContext, engine: Engine) -> None:
    while True:
        plain, address = listener.accept()
        secure = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        session = Connection(engine, secure, address, name="session", enable_tls_client_auth=True)
        session.daemon = True
        session.start()


def main() -> None:
    folder, ports = Path(sys.argv[1]), json.loads(sys.argv[2])
    logging.disable(logging.CRITICAL)
    engine = Engine(folder)
    certificates = sorted(folder.glob("*.pem"))
    print(json.dumps({each.stem: listen(folder, each, ports.get(each.stem, 0), engine) for each in certificates}))
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
