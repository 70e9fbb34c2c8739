"""`python -m tests.vectors.generate NAME`: how the frozen vectors of a version were made. What is there stays as it is.

The files in version_1/ are those that were made when version 1 was frozen; the program of today would write others,
and they are never made again. A later version of the format gets a folder of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import UUID, uuid4

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keys.crypto_recipients import KmsRecipient, RecoveryRecipient
from keys.crypto_recovery import RecoveryPrivate
from keys.crypto_rsa import Oaep
from repositories.engine import storing
from repositories.engine.backup import CheckpointInterval, Level, ParentPoint
from repositories.engine.layout import VERSION
from repositories.engine.merging import MergeOrder, merge
from repositories.engine.settling import settle, unsettled
from tests.engine.children import Killed, in_child
from tests.engine.disk_calls import killed, watched
from tests.engine.lab import NO_RESERVE, Chain, Recorder, later, recipient, write_tree

HERE = Path(__file__).parent
SOURCE = Path("/srv/vector")  # the same everywhere, so that no path of a machine is in the vectors
SIGNER = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"signs vectors only").digest())
RECOVERY = RecoveryPrivate(hashlib.sha256(b"opens vectors only").digest())
FIRST, SECOND = "correct horse", "zweites Paßwort "  # with a space at its end


def make_tree(source: Path) -> None:
    write_tree(source, {"folder/text": b"text " * 3_000, "folder/deep/small": b"small", "empty": b""})
    write_tree(source, {"large": b"".join(b"line %d\n" % number for number in range(80_000))})
    (source / "link").symlink_to("folder/text")
    os.link(source / "folder/text", source / "another name")
    with open(source / "sparse", "wb") as file:
        file.truncate(3_000_000)
        file.seek(1_000_000)
        file.write(b"an island")
    os.mkfifo(source / "fifo", 0o640)
    Path(os.fsdecode(os.fsencode(source) + b"/\xff\n")).write_bytes(b"a name that is not UTF-8")
    (source / "folder").chmod(0o750)
    for path in sorted(source.rglob("*")):
        os.utime(path, ns=(0, 1_700_000_000_123_456_789), follow_symlinks=False)
    os.utime(source / "empty", ns=(0, -5))


def change_tree(source: Path, number: int) -> None:
    write_tree(source, {f"new {number}": b"new %d" % number * 500, "folder/deep/small": b"changed %d" % number})
    with suppress(FileNotFoundError):
        (source / "folder/text").unlink()


class Maker:
    """One chain, and what is in each of its points."""

    def __init__(self, root: Path, passwords: tuple[str, ...]) -> None:
        self.chain = Chain(root, SOURCE, passwords)
        self.points: dict[int, dict[str, object]] = {}
        self.private_halves: dict[str, str] = {}

    def write(self, **fields: object) -> None:
        written = self.chain.write(level=Level.BALANCED, **fields)
        passwords = fields.get("passwords", self.chain.passwords)
        self.points[written.sequence] = {"passwords": list(passwords), "entries": entries_below(SOURCE)}

    def write_next(self, **fields: object) -> None:
        change_tree(SOURCE, len(self.points))
        self.write(**fields)

    @property
    def newest(self) -> ParentPoint:
        return ParentPoint(self.chain.points[-1].path, self.chain.points[-1].file_key)


def encrypted(root: Path) -> Maker:
    """Signed, too."""
    maker = Maker(root, (FIRST,))
    maker.write(signer=SIGNER)
    maker.write_next(signer=SIGNER)
    return maker


def several_slots(root: Path) -> Maker:
    maker = Maker(root, (FIRST, SECOND, "third"))
    maker.write()
    return maker


def every_kind_of_key(root: Path) -> Maker:
    """A password, a KMS key and a recovery key, whose private halves are told beside it. Added later to version 1."""
    maker = Maker(root, (FIRST,))
    private = rsa.generate_private_key(65537, 3072)
    kms = KmsRecipient(UUID(int=2), 4, Oaep.SHA256, public_der(private.public_key()), "key 4711", "vault of Köln")
    recipients = (recipient(FIRST), kms, RecoveryRecipient(UUID(int=3), RECOVERY.public(), "safe in Köln"))
    maker.write(recipients=recipients)
    maker.write_next(recipients=recipients)
    maker.private_halves = {"kms_private_key": private_pem(private), "recovery_seed": RECOVERY.seed.hex()}
    return maker


def public_der(public: rsa.RSAPublicKey) -> bytes:
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def private_pem(private: rsa.RSAPrivateKey) -> str:
    form, nothing = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return private.private_bytes(serialization.Encoding.PEM, form, nothing).decode()


def changed_password(root: Path) -> Maker:
    maker = Maker(root, (FIRST,))
    maker.write()
    maker.write_next(passwords=(SECOND,))
    maker.write_next(passwords=("third",))
    return maker


def plain(root: Path) -> Maker:
    maker = Maker(root, ())
    maker.write()
    maker.write_next()
    return maker


def merged(root: Path) -> Maker:
    """Points 1 and 2 became one; point 3 goes on."""
    maker = Maker(root, (FIRST,))
    maker.write()
    maker.write_next()
    maker.write_next()
    chain = maker.chain
    order = MergeOrder(
        chain.root, chain.chain_id, uuid4(), 2, maker.newest, recipients=(recipient(FIRST),), reserve=NO_RESERVE,
        clock=later,
    )  # fmt: skip
    merge(order, Recorder())
    for path in unsettled(chain.folder):
        settle(path, maker.newest)
    del maker.points[1]
    return maker


def resumed(root: Path) -> Maker:
    """Killed behind a checkpoint, and written on by another process: two epochs."""
    storing._BATCH_ENTRIES = 4
    maker = Maker(root, (FIRST,))
    often = CheckpointInterval(bytes=1, seconds=3600.0)

    def work() -> None:
        with watched(14, killed):
            maker.chain.write(checkpoints=often)

    with suppress(Killed):
        in_child(work)
    maker.write(checkpoints=often)
    assert maker.chain.points[-1].resumed
    return maker


VECTORS: dict[str, Callable[[Path], Maker]] = {
    "encrypted": encrypted, "several-slots": several_slots, "changed-password": changed_password, "plain": plain,
    "merged": merged, "resumed": resumed, "every-kind-of-key": every_kind_of_key,
}  # fmt: skip


def entries_below(folder: Path) -> dict[str, dict[str, object]]:
    """By path without the leading slash, undecodable bytes as surrogates."""
    found = {str(folder)[1:]: facts_of(folder)}
    for path in sorted(folder.rglob("*")):
        found[str(path)[1:]] = facts_of(path)
    return found


def facts_of(path: Path) -> dict[str, object]:
    seen = path.lstat()
    facts: dict[str, object] = {"mode": seen.st_mode, "mtime_ns": seen.st_mtime_ns}
    if stat.S_ISREG(seen.st_mode):
        facts |= {"size": seen.st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    if stat.S_ISLNK(seen.st_mode):
        facts |= {"target": os.readlink(path)}
    return facts


def main() -> int:
    folder = HERE / f"version_{VERSION}"
    for name in sys.argv[1:] or VECTORS:
        if (folder / name).exists():
            sys.exit(f"{name} is frozen; a changed format is a new version, with a folder of its own.")
        shutil.rmtree(SOURCE, ignore_errors=True)
        make_tree(SOURCE)
        maker = VECTORS[name](folder / name)
        shutil.rmtree(SOURCE)
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in maker.chain.folder.iterdir()}
        told = {"chain": str(maker.chain.chain_id), "files": digests, "points": maker.points, **maker.private_halves}
        (folder / name / "expected.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", "ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
