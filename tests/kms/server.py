"""A real KMIP server for tests: PyKMIP's, over TLS, in its own process (tests.kms.server_process).

    with server.start(folder) as kms:
        with connect(kms.address()) as connection: ...

`kms.mode(decrypt="no", reply="silent", ...)` says what it does from now on; `kms.stop()` and `kms.start_again()` are an
outage: the port and the keys stay. The fixture `kmip_server` (tests/kms/fixtures.py) gives one that serves all tests
of a process, in its usual mode.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography.x509.oid import ExtendedKeyUsageOID

from keys.kms.interface import ServerAddress
from tests.kms.certificates import DAY, Identity, another_ca, make_server, the_ca, the_client

SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH

ROOT = Path(__file__).resolve().parent.parent.parent

# The certificates that it shows, each on a port of its own: which are not to be trusted, and why.
LISTENERS = {
    "good": lambda: make_server(the_ca()),
    "expired": lambda: make_server(the_ca(), since=-30 * DAY, until=-DAY),
    "early": lambda: make_server(the_ca(), since=DAY, until=30 * DAY),
    "wrong-host": lambda: make_server(the_ca(), "kms.example.org"),
    "another-ca": lambda: make_server(another_ca()),
}


class KmipServer:
    """A running server. `host` and `port` are those of the good certificate."""

    host = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports: dict[str, int] = {}
        self._process: subprocess.Popen[str] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ca.crt").write_text(the_ca().pem)
        for name, make in LISTENERS.items():
            identity = make()
            (folder / f"{name}.pem").write_text(identity.pem + identity.key_pem)
        self.mode()

    @property
    def port(self) -> int:
        return self.ports["good"]

    @property
    def ca_pem(self) -> str:
        return the_ca().pem

    def mode(self, **mode: Any) -> None:
        """Say what it does from now on; what is not given is as usual."""
        (self.folder / "mode.new").write_text(json.dumps(mode))
        (self.folder / "mode.new").rename(self.folder / "mode.json")

    def address(self, listener: str = "good", client: Identity | None = None, **fields: Any) -> ServerAddress:
        client = client or the_client()
        defaults = {
            "kind": "kmip",
            "host": self.host,
            "port": self.ports[listener],
            "ca_pem": self.ca_pem,
            "certificate_pem": client.pem,
            "private_key_pem": client.key_pem,
            "name": "vault",
            "timeout_seconds": 10.0,
        }
        return ServerAddress(**{**defaults, **fields})

    def start_again(self) -> Self:
        program = [sys.executable, "-W", "ignore", "-m", "tests.kms.server_process", str(self.folder)]
        with (self.folder / "stderr").open("a") as errors:  # of its threads whose client has gone
            self._process = subprocess.Popen(
                [*program, json.dumps(self.ports)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={"PATH": "/usr/bin:/bin"},
            )
        assert self._process.stdout is not None
        self.ports = json.loads(self._process.stdout.readline())
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(folder: Path, **mode: Any) -> KmipServer:
    """Start a server with its keys in `folder`; it answers when this returns."""
    server = KmipServer(folder)
    server.mode(**mode)
    return server.start_again()
