"""A second reader, written from docs/FORMAT.md alone: nothing of the engine is imported, nothing is fast.

It opens one file of a chain with a password, the private half of a KMS key, or the seed of a recovery key (none of them
for plain files) and gives back paths with their contents. HPKE is written out, so that the text has all that it takes.
"""

import functools
import hashlib
import hmac
import os
import struct
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import msgspec
from backports import zstd
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

P = b"backupsite 1|"
COPY, BODY = 98_304, 196_608
BLOCK, SEGMENT, IDENTITIES, KEYRING, ROOT, INDEX, SEAL = range(2, 9)
unpack_message = msgspec.msgpack.decode


class Refused(Exception):
    pass


def check(holds: bool, what: str) -> None:
    if not holds:
        raise Refused(what)


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt or bytes(32), info).derive(secret)


def hpke_open(seed: bytes, sealed: bytes, info: bytes) -> bytes:
    """RFC 9180, base mode, KEM 0x647A (X-Wing), KDF 1, AEAD 2; one message without AAD."""
    expanded = hashlib.shake_256(seed).digest(96)
    mlkem = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
    theirs, ours = sealed[1088:1120], x25519.public_key().public_bytes_raw()
    exchanged = x25519.exchange(X25519PublicKey.from_public_bytes(theirs))
    shared = hashlib.sha3_256(mlkem.decapsulate(sealed[:1088]) + exchanged + theirs + ours + b"\\.//^\\").digest()
    suite = b"HPKE-v1HPKE\x64\x7a\x00\x01\x00\x02"

    def extract(salt: bytes, label: bytes, secret: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), suite + label + secret, "sha256")

    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared, b"secret", b"")

    def expand(label: bytes, length: int) -> bytes:
        return hmac.digest(secret, struct.pack(">H", length) + suite + label + context + b"\1", "sha256")[:length]

    return AESGCM(expand(b"key", 32)).decrypt(expand(b"base_nonce", 12), sealed[1120:], b"")


class SecondReader:
    def __init__(
        self,
        path: Path,
        password: str | None = None,
        file_key: bytes | None = None,
        rsa: RSAPrivateKey | None = None,
        seed: bytes | None = None,
    ) -> None:
        self.path, self.raw = path, path.read_bytes()
        self.head = self._choose_head()
        self.replaced: dict[bytes, bytes] = {}  # seal hashes
        self.chain, self.file = self.head[48 - 16 : 48], self.head[48:64]
        self.password, self.rsa, self.seed = password, rsa, seed
        self.key = file_key if password is None and rsa is None and seed is None else self._unwrap()
        if self.head[10]:
            self._check_head()
        self._read_trailer()
        self._read_seal()
        self._read_index()
        keyring = self._keyring()
        self.chain_key, self.keys = keyring
        self.root = unpack_message(self._digested(self.root_number, ROOT, self.seal[160:192]))
        message = P + b"chain|" + self.file + self.seal[32:40] + self.seal[64:96]
        check(self.seal[252:284] == hmac.digest(self.chain_key, message, "sha256"), "chain MAC")

    def _choose_head(self) -> bytes:
        copies = []
        for start in (0, COPY):
            length = struct.unpack_from("<I", self.raw, start + 12)[0]
            copy = self.raw[start : start + min(length, COPY)]
            if copy[:8] == b"BACKSITE" and hashlib.sha256(copy[:-32]).digest() == copy[-32:]:
                copies.append(copy)
        check(bool(copies), "head")
        check(copies[0][8:10] == b"\1\0", "version")
        return max(copies, key=lambda copy: struct.unpack_from("<I", copy, 16)[0])

    def _unwrap(self) -> bytes:
        at = 96
        for _ in range(self.head[11]):
            length = struct.unpack_from("<H", self.head, at + 2)[0]
            slot, at = self.head[at : at + length], at + length
            place = slot[0:1] + slot[4:24] + self.chain + self.file
            try:
                secret = self._secret_of(slot, place)
                if secret is not None:
                    return AESGCM(hkdf(secret, slot[24:56], place)).decrypt(bytes(12), slot[-48:], slot[:-48])
            except (InvalidTag, ValueError):
                continue
        raise Refused("no slot opens")

    def _secret_of(self, slot: bytes, place: bytes) -> bytes | None:
        if slot[0] == 1 and self.password is not None:
            lanes, iterations, memory = struct.unpack_from("<BHI", slot, 57)
            kdf = Argon2id(salt=slot[64:80], length=32, iterations=iterations, lanes=lanes, memory_cost=memory)
            return kdf.derive(unicodedata.normalize("NFC", self.password).encode())
        if slot[0] == 2 and slot[56] == 1 and self.rsa is not None:
            main, mask = {
                1: (hashes.SHA256(), hashes.SHA256()),
                2: (hashes.SHA256(), hashes.SHA1()),
                3: (hashes.SHA1(), hashes.SHA1()),
            }[slot[57]]
            length = struct.unpack_from("<H", slot, 58)[0]
            return self.rsa.decrypt(slot[464 : 464 + length], padding.OAEP(padding.MGF1(mask), main, None))
        if slot[0] == 3 and slot[56] == 1 and self.seed is not None:
            return hpke_open(self.seed, slot[192 : 192 + 1168], b"backupsite recovery slot 1|" + place)
        return None

    def _check_head(self) -> None:
        check(self.head[64:96] == hkdf(self.key, b"", P + b"commit|" + self.file), "commitment")
        key = hkdf(self.key, b"", P + b"head|" + self.file)
        check(self.head[-64:-32] == hmac.digest(key, self.head[:-64], "sha256"), "HMAC of the head")

    def _read_trailer(self) -> None:
        trailer = self.raw[-96:]
        check(trailer[:8] == b"BKPTRAIL" and hashlib.sha256(trailer[:72]).digest()[:24] == trailer[72:], "trailer")
        number, first, random, self.seal_at, self.seal_number, self.seal_length, total = struct.unpack(
            "<HI32sQIIQ", trailer[10:72]
        )
        check(total == len(self.raw), "length")
        self.origins = {self.file: (self.key, [(number, first, random)])}

    def _open(self, kind: int, number: int, offset: int, length: int, origin: bytes | None = None) -> bytes:
        """The raw content of the record at an offset; without an origin it is the file's own."""
        file = origin or self.file
        file_key, epochs = self.origins[file]
        epoch, first, random = [epoch for epoch in epochs if epoch[1] <= number][-1]
        check(self.raw[offset : offset + 16] == struct.pack("<BBHIQ", kind, 0, epoch, number, length), "record header")
        sealed = self.raw[offset + 16 : offset + 16 + length]
        aad = struct.pack("<HB", 1, kind) + self.chain + file + struct.pack("<HI", epoch, number)
        if self.key is None:
            payload = sealed[:-16]
            check(blake3(aad + payload).digest(16) == sealed[-16:], "checksum")
        else:
            key = hkdf(file_key, random, P + (b"block|" if kind == BLOCK else b"metadata|") + file)
            payload = AESGCM(key).decrypt((number - first).to_bytes(12, "big"), sealed, aad)
        method, raw_length = struct.unpack_from("<BxxxI", payload)
        raw = zstd.decompress(payload[8:]) if method else payload[8:]
        check(len(raw) == raw_length, "raw length")
        return raw

    def _read_seal(self) -> None:
        self.seal = seal = self._open(SEAL, self.seal_number, self.seal_at, self.seal_length)
        check(len(seal) == 380 and seal[:16] == self.chain and seal[16:32] == self.file, "ids of the seal")
        check(seal[32:40] == self.head[24:32] and seal[40] == self.head[10], "sequence and encryption of the seal")
        self.keyring_number, self.root_number, self.index_number = struct.unpack_from("<III", seal, 96)
        self.index_at, self.index_length = struct.unpack_from("<QQ", seal, 112)
        self.seal_hash = hashlib.sha256(P + b"seal|" + seal[:284]).digest()

    def _read_index(self) -> None:
        sealed = self.raw[self.index_at + 16 : self.index_at + 16 + self.index_length]
        check(hashlib.sha256(sealed).digest() == self.seal[192:224], "digest of the index")
        raw = self._open(INDEX, self.index_number, self.index_at, self.index_length)
        table = Table(raw)
        origins, items = table.integers("<II")
        for number in range(origins):
            file, key, epochs = table.integers("<16s32sI")
            check((number == 0) == (file == self.file), "first origin")
            epochs = [table.integers("<HxxI32s") for _ in range(epochs)]
            self.origins[file] = (key if number else self.key, epochs)
            if number:
                self.replaced[file] = table.take(32)
        files = list(self.origins)
        origin = table.column(items, 4)
        numbers, kinds = table.column(items, 4, delta=True), table.column(items, 4)
        offsets, lengths = table.column(items, 8, delta=True), table.column(items, 4)
        rows = zip(origin, numbers, kinds, offsets, lengths, strict=True)
        self.places = {(files[o], n): rest for o, n, *rest in rows}

    @functools.lru_cache(maxsize=8)  # noqa: B019 - gone with the test
    def item(self, number: int, kind: int, tag: bytes | None = None, origin: bytes | None = None) -> bytes:
        found, offset, length = self.places[origin or self.file, number]
        check(found == kind, "kind")
        check(tag is None or self.raw[offset + length : offset + 16 + length] == tag, "tag")
        return self._open(kind, number, offset, length, origin)

    def _digested(self, number: int, kind: int, digest: bytes) -> bytes:
        _, offset, length = self.places[self.file, number]
        check(hashlib.sha256(self.raw[offset + 16 : offset + 16 + length]).digest() == digest, "digest")
        return self.item(number, kind)

    def _keyring(self) -> tuple[bytes, dict[bytes, bytes]]:
        if self.key is None:
            return hashlib.sha256(P + b"plain chain|" + self.chain).digest(), {}
        chain_key, keys, *_later = unpack_message(self._digested(self.keyring_number, KEYRING, self.seal[128:160]))
        return chain_key, keys

    def other(self, file: bytes, opened: dict[bytes, "SecondReader"]) -> "SecondReader":
        """The file of the chain with this id, or one that replaced it; it lies in the same folder."""
        if file in self.origins:
            return self
        if file not in opened:
            holders = [one for one in self._beside(opened) if file in one.origins]
            check(bool(holders), "a file is missing")
            opened[file] = holders[0]
        return opened[file]

    def _beside(self, opened: dict[bytes, "SecondReader"]) -> Iterator["SecondReader"]:
        """The other files that the keyring opens: by their own key, or by that of the newest file replaced."""
        for name in os.listdir(self.path.parent):
            if name.endswith((".part", ".deleting")):
                continue
            head = (self.path.parent / name).read_bytes()[:COPY]
            length, replaced = struct.unpack_from("<I", head, 12)[0], struct.unpack_from("<H", head, 20)[0]
            ids = head[length - 64 - 16 * replaced : length - 64]
            file = head[48:64]
            key = self.keys.get(file, self.keys.get(ids[-16:]))
            if file not in opened and (key or self.key is None):
                opened[file] = SecondReader(self.path.parent / name, file_key=key)
            if file in opened:
                yield opened[file]

    def files(self) -> dict[bytes, tuple[int, int, bytes]]:
        """Path: (mode, mtime in ns, content or link target)."""
        opened: dict[bytes, SecondReader] = {}
        found: dict[bytes, tuple[int, int, bytes]] = {}
        _facts, origins, segments, _runs, *_later = self.root
        for origin, number, tag, entries, first, last, *_later in segments:
            rows = list(self._segment(self._item_of(origins[origin], number, SEGMENT, opened, tag), opened))
            check(len(rows) == entries and rows[0][0] == first and rows[-1][0] == last, "segment")
            found.update({path: (mode, mtime, content) for path, mode, mtime, content in rows})
        return found

    def _item_of(self, origin: bytes, number: int, kind: int, opened: dict, tag: bytes | None = None) -> bytes:
        return self.other(origin, opened).item(number, kind, tag, origin)

    def _segment(self, raw: bytes, opened: dict[bytes, "SecondReader"]):
        table = Table(raw)
        entries, chunk_count, names_length, extras_length = table.integers("<IIII")
        folder = table.column(entries, 4, delta=True)
        mode, _flags, _uid, _gid, _device = (table.column(entries, 4) for _ in range(5))
        _inode, size = table.column(entries, 8, delta=True), table.column(entries, 8)
        mtime, _ctime = table.column(entries, 8, delta=True), table.column(entries, 8, delta=True)
        counts = table.column(entries, 4)
        origin, block = table.column(chunk_count, 4), table.column(chunk_count, 4, delta=True)
        stored, length = table.column(chunk_count, 4), table.column(chunk_count, 4)
        names = table.take(names_length).split(b"\0")
        folders, _devices, origins, targets, _rdevs, _xattrs, *_later = msgspec.msgpack.Decoder(strict=False).decode(
            table.take(extras_length)
        )
        chunks, before = [], (None, None, 0)
        for o, b, s, n in zip(origin, block, stored, length, strict=True):
            offset = (s + before[2]) % 2**32 if before[:2] == (o, b) else s
            before = (o, b, offset + n)
            chunks.append((o, b, offset, n))
        rest = iter(chunks)
        for row in range(entries):
            content = targets.get(row, b"")
            for o, b, offset, n in (next(rest) for _ in range(counts[row])):
                content += (
                    bytes(n) if o == 0xFFFFFFFF else self._item_of(origins[o], b, BLOCK, opened)[offset : offset + n]
                )
            check(row in targets or len(content) == size[row], "size")
            signed = mtime[row] - 2**64 if mtime[row] >= 2**63 else mtime[row]
            yield folders[folder[row]] + names[row], mode[row], signed, content


class Table:
    def __init__(self, raw: bytes) -> None:
        self.raw, self.at = raw, 0

    def take(self, length: int) -> bytes:
        self.at += length
        return self.raw[self.at - length : self.at]

    def integers(self, form: str) -> tuple:
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def column(self, count: int, width: int, delta: bool = False) -> list[int]:
        planes = self.take(count * width)
        values = [int.from_bytes(planes[i::count], "little") for i in range(count)] if count else []
        if delta:
            total = 0
            for i, value in enumerate(values):
                total = values[i] = (total + value) % 2 ** (8 * width)
        return values
