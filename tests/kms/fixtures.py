"""The fixture of the KMIP server, for every test: imported by tests/conftest.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kms.server import KmipServer, start


@pytest.fixture(scope="session")
def running_kmip_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmipServer]:
    with start(tmp_path_factory.mktemp("kmip")) as server:
        yield server


@pytest.fixture
def kmip_server(running_kmip_server: KmipServer) -> Iterator[KmipServer]:
    """A server that decrypts with OAEP-SHA256; `kmip_server.mode(...)` changes it until the end of the test."""
    yield running_kmip_server
    running_kmip_server.mode()


@pytest.fixture
def plain_kmip_server(kmip_server: KmipServer) -> KmipServer:
    """The server as PyKMIP makes it: it cannot decrypt with a private key, and releases it instead."""
    kmip_server.mode(decrypt="no")
    return kmip_server
