"""KMS slots without the console: through the server, or with what the KMS's own tool returned."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from keys import crypto_rsa
from keys.crypto_recipients import KmsRecipient
from keys.crypto_rsa import Oaep
from keys.crypto_sheet import sheet_text
from keys.kms.connecting import connect
from keys.kms.interface import KeyPair
from repositories.engine.reader import inspect
from tests.engine.lab import Chain, write_tree
from tests.engine.recovering import KMS_RECORD, kms_recipient, recovery_private, recovery_recipient, rsa_pair
from tests.engine_cli.test_recovery_keys import Run, run
from tests.kms.server import KmipServer

__all__ = ["run"]


@pytest.fixture(scope="module")
def pair(running_kmip_server: KmipServer) -> KeyPair:
    with connect(running_kmip_server.address()) as server:
        return server.create_key_pair("a job's", 3072)


def written(folder: Path, *recipients: KmsRecipient) -> Chain:
    write_tree(folder / "source", {"a": b"content"})
    chain = Chain(folder / "repository", folder / "source")
    chain.write(recipients=(*recipients, recovery_recipient()))
    return chain


def recipient_of(pair: KeyPair, oaep: Oaep = Oaep.SHA256) -> KmsRecipient:
    return KmsRecipient(KMS_RECORD, 7, oaep, pair.public, pair.private_id, "vault")


def kms_file(folder: Path, server: KmipServer, listener: str = "good", **fields: object) -> Path:
    address = server.address(listener)
    for name, pem in (("ca", address.ca_pem), ("cert", address.certificate_pem), ("key", address.private_key_pem)):
        (folder / f"{name}.pem").write_text(pem)
    said = {"host": address.host, "port": address.port, "ca": "ca.pem", "certificate": "cert.pem", "key": "key.pem"}
    (folder / "kms.json").write_text(json.dumps(said | fields))
    (folder / "kms.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in said.items()))
    return folder / "kms.json"


@pytest.mark.parametrize("form", ["kms.json", "kms.toml"])
def test_a_server_opens_them(run: Run, kmip_server: KmipServer, pair: KeyPair, tmp_path: Path, form: str) -> None:
    chain = written(tmp_path, recipient_of(pair))
    kms_file(tmp_path, kmip_server)
    done = run("recover", chain.root, "--into", tmp_path / "into", "--kms", tmp_path / form)
    assert done.code == 0, done.err
    assert (tmp_path / "into" / chain.source.relative_to("/") / "a").read_bytes() == b"content"
    assert "private key" not in done.err


def test_a_server_that_gives_out_the_private_key(
    run: Run, plain_kmip_server: KmipServer, pair: KeyPair, tmp_path: Path
) -> None:
    chain = written(tmp_path, recipient_of(pair))
    done = run("list", chain.root, "--kms", kms_file(tmp_path, plain_kmip_server))
    assert done.code == 0 and "it gave out the private key" in done.err


def test_a_server_that_does_not_know_the_key(run: Run, kmip_server: KmipServer, tmp_path: Path) -> None:
    chain = written(tmp_path, kms_recipient())
    done = run("list", chain.root, "--kms", kms_file(tmp_path, kmip_server))
    assert done.result["error"]["code"] == "cannot-unwrap" and "private-1" in done.err


@pytest.mark.parametrize("listener", ["expired", "another-ca"])
def test_a_server_that_is_not_trusted(
    run: Run, kmip_server: KmipServer, pair: KeyPair, tmp_path: Path, listener: str
) -> None:
    chain = written(tmp_path, recipient_of(pair))
    done = run("list", chain.root, "--kms", kms_file(tmp_path, kmip_server, listener))
    assert done.result["points"][0]["problem_code"] == "kms-failed"
    assert done.code == 2 and len(done.err.splitlines()) == 1, "it is asked, and complained of, once"


def test_a_recovery_key_given_too_needs_no_server(run: Run, kmip_server: KmipServer, tmp_path: Path) -> None:
    chain = written(tmp_path, kms_recipient())
    (tmp_path / "sheet").write_text(sheet_text(recovery_private()))
    kms = kms_file(tmp_path, kmip_server, port=1)
    assert run("list", chain.root, "--kms", kms, "--recovery-key", tmp_path / "sheet").code == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "neither TOML nor JSON"),
        ("a list", "neither TOML nor JSON"),
        ('host = "a"', "it lacks ca, certificate, key"),
        ('host = "a"\nca = "x"\ncertificate = "x"\nkey = "x"\npassword = "x"', "password is not known"),
        ('host = "a"\nca = "x"\ncertificate = "x"\nkey = "x"\nport = "many"', "are numbers"),
        ('host = "a"\nca = "none"\ncertificate = "x"\nkey = "x"', "none cannot be used"),
    ],
)
def test_a_file_that_describes_no_server(run: Run, tmp_path: Path, content: str, says: str) -> None:
    chain = written(tmp_path, kms_recipient())
    (tmp_path / "kms").write_text(content)
    (tmp_path / "x").write_text("pem")
    done = run("list", chain.root, "--kms", tmp_path / "kms")
    assert done.result["error"]["code"] == "key-file-unreadable" and says in done.err


@pytest.mark.parametrize("form", [bytes, base64.b64encode, lambda secret: secret.hex().upper().encode() + b"\n"])
@pytest.mark.parametrize("oaep", [Oaep.SHA256, Oaep.SHA1])
def test_what_the_tool_of_the_kms_returned(run: Run, tmp_path: Path, form, oaep: Oaep) -> None:
    chain = written(tmp_path, kms_recipient(1, oaep))
    slot = run("inspect", chain.folder / "1").result["slots"][0]
    secret = crypto_rsa.decapsulate(base64.b64decode(slot["encapsulated"]), rsa_pair(1), oaep)
    (tmp_path / "secret").write_bytes(form(secret))
    (tmp_path / "wrong").write_bytes(bytes(32))
    arguments = ("list", chain.root, "--slot-secret-file")
    assert run(*arguments, tmp_path / "secret").code == 0
    assert run(*arguments, tmp_path / "wrong", "--slot-secret-file", tmp_path / "secret").code == 0
    assert run(*arguments, tmp_path / "wrong").result["error"]["code"] == "cannot-unwrap"


def test_a_secret_of_another_length_is_refused(run: Run, tmp_path: Path) -> None:
    chain = written(tmp_path, kms_recipient())
    (tmp_path / "secret").write_bytes(bytes(31))
    done = run("list", chain.root, "--slot-secret-file", tmp_path / "secret")
    assert done.result["error"]["code"] == "key-file-unreadable" and "31 bytes" in done.err
    assert inspect(chain.folder / "1").slots[0].key_id == "private-1"
