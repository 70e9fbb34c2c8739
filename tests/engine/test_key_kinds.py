"""Files with slots of every kind: what opens them, what a rewrap leaves, and who may go on with an unfinished one."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from keys.crypto_recipients import Recipient
from keys.crypto_rsa import Oaep
from keys.crypto_slots import Slot, SlotKind
from repositories.engine import storing
from repositories.engine.errors import CannotUnwrap
from repositories.engine.reader import Kek, Secret, SlotSecrets, open_point
from repositories.engine.rewrap import rewrap
from repositories.engine.verify import verify
from tests.engine.lab import Chain, Recorder, facts_in_point, facts_on_disk, recipient, write_tree
from tests.engine.recovering import (
    by_kms,
    by_recovery_key,
    kms_recipient,
    recovery_private,
    recovery_recipient,
    rsa_pair,
)
from tests.engine.second_reader import Refused, SecondReader
from tests.engine.test_resume import codes, interrupt

PASSWORD, KMS, RECOVERY = recipient("old"), kms_recipient(), recovery_recipient()
EVERYTHING = (PASSWORD, KMS, RECOVERY)


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    write_tree(tmp_path / "source", {"a": b"content of a" * 20, "folder/b": b"content of b" * 20})
    return Chain(tmp_path / "repository", tmp_path / "source", ("old",))


def opens(path: Path, secret: Secret) -> bool:
    try:
        open_point(path, secret).close()
    except CannotUnwrap:
        return False
    return True


def what_opens(path: Path) -> list[bool]:
    secrets: list[Secret] = [Kek(PASSWORD.kek), by_kms(), by_recovery_key(), by_recovery_key("another")]
    return [opens(path, secret) for secret in secrets]


@pytest.mark.parametrize(
    "secret", [Kek(PASSWORD.kek), by_kms(), by_recovery_key()], ids=["password", "kms", "recovery"]
)
def test_each_secret_opens_everything(chain: Chain, secret: Secret) -> None:
    chain.write(recipients=EVERYTHING)
    with open_point(chain.points[0].path, secret) as point:
        assert facts_in_point(point) == facts_on_disk(chain.source)
        assert verify(point, "full", Recorder()).damages == ()


@pytest.mark.parametrize("oaep", Oaep)
def test_the_second_reader_opens_each_padding(chain: Chain, oaep: Oaep) -> None:
    path = chain.write(recipients=(recovery_recipient("another"), kms_recipient(1, oaep))).path
    found = SecondReader(path, rsa=rsa_pair(1)).files()
    assert found == SecondReader(path, seed=recovery_private("another").seed).files()
    with pytest.raises(Refused):
        SecondReader(path, seed=recovery_private().seed)


def test_the_newest_secret_opens_the_chain_and_an_older_one_nothing_newer(chain: Chain) -> None:
    for recipients in ((PASSWORD,), (KMS, RECOVERY), (RECOVERY,)):
        write_tree(chain.source, {f"{len(chain.points)}": b"more"})
        chain.write(recipients=recipients)
    with open_point(chain.points[2].path, by_recovery_key()) as point:
        assert set(point.earlier_file_keys) == {written.file_id for written in chain.points[:2]}
    assert not opens(chain.points[2].path, by_kms()) and not opens(chain.points[1].path, Kek(PASSWORD.kek))


def test_a_rewrap_leaves_the_slots_of_other_kinds(chain: Chain) -> None:
    path = chain.write(recipients=EVERYTHING).path
    before = path.read_bytes()
    new = recipient("new")
    head = rewrap(path, by_recovery_key(), add=(new,), remove=((PASSWORD.record, PASSWORD.version),))
    assert [slot.kind for slot in head.slots] == [SlotKind.KMS, SlotKind.RECOVERY, SlotKind.PASSWORD]
    assert [slot.raw in before for slot in head.slots] == [True, True, False], "they are the same, byte by byte"
    assert what_opens(path) == [False, True, True, False] and opens(path, Kek(new.kek))


def test_a_rewrap_by_each_kind_adds_and_takes_away_each_kind(chain: Chain) -> None:
    path = chain.write(recipients=(PASSWORD,)).path
    rewrap(path, Kek(PASSWORD.kek), add=(RECOVERY,))
    rewrap(path, by_recovery_key(), add=(KMS,), remove=((PASSWORD.record, 1),))
    assert what_opens(path) == [False, True, True, False]
    rewrap(path, by_kms(), add=(recovery_recipient("another"),), remove=((RECOVERY.record, 1),))
    assert what_opens(path) == [False, True, False, True]


def test_what_the_way_to_a_secret_raises_opening_raises(chain: Chain) -> None:
    path = chain.write(recipients=EVERYTHING).path

    def away(slot: Slot, _chain: UUID, _file: UUID) -> bytes | None:
        raise ConnectionError(f"no way to {slot.key_id}")

    with pytest.raises(ConnectionError):
        open_point(path, SlotSecrets(away))


class TestUnfinished:
    """Who may go on with a file that a killed session left."""

    @pytest.fixture(autouse=True)
    def tree(self, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(storing, "_BATCH_ENTRIES", 10)
        write_tree(chain.source, {f"{i % 7}/{i}": b"%d " % i * 5_000 for i in range(150)})

    @staticmethod
    def went_on(chain: Chain, key: bytes | None, *recipients: Recipient) -> tuple[bool, str]:
        observer = Recorder()
        written = chain.write(observer=observer, recipients=recipients, unfinished_key=key)
        with open_point(written.path, by_recovery_key()) as point:
            assert facts_in_point(point) == facts_on_disk(chain.source)
        return written.resumed, observer.notes[0][1]

    def key_of(self, part: Path) -> bytes:
        with part.open("rb") as file:
            assert file.read(8) == b"BACKSITE"
        return SecondReaderKey(part).key

    def test_of_a_kms_job_the_order_must_bring_the_key(
        self, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        part = interrupt(chain, monkeypatch, tmp_path, recipients=(KMS, RECOVERY))
        key, copy = self.key_of(part), part.read_bytes()
        resumed, why = self.went_on(chain, None, KMS, RECOVERY)
        assert not resumed and "none of its keys is in reach" in why
        chain.points.pop().path.unlink()
        part.write_bytes(copy)
        assert self.went_on(chain, key, KMS, RECOVERY)[0]

    def test_a_password_among_them_is_enough(
        self, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interrupt(chain, monkeypatch, tmp_path, recipients=(PASSWORD, RECOVERY))
        assert self.went_on(chain, None, PASSWORD, RECOVERY)[0]

    @pytest.mark.parametrize(
        "now",
        [(KMS,), (RECOVERY, KMS), (kms_recipient(1, Oaep.SHA1), RECOVERY), (KMS, recovery_recipient("another"))],
        ids=["one less", "another order", "another padding", "another recovery key"],
    )
    def test_changed_recipients_begin_anew(
        self, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: tuple[Recipient, ...]
    ) -> None:
        part = interrupt(chain, monkeypatch, tmp_path, recipients=(KMS, RECOVERY))
        observer = Recorder()
        written = chain.write(observer=observer, recipients=now, unfinished_key=self.key_of(part))
        assert not written.resumed and "its recipients were changed" in observer.notes[0][1]
        assert codes(observer) == ["leftover-removed"]

    def test_another_key_than_the_files_is_refused(
        self, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        interrupt(chain, monkeypatch, tmp_path, recipients=(KMS, RECOVERY))
        resumed, why = self.went_on(chain, bytes(32), KMS, RECOVERY)
        assert not resumed and "does not fit its recipients" in why


class SecondReaderKey(SecondReader):
    """The file key of an unfinished file, which has a head and no end."""

    def __init__(self, path: Path) -> None:
        self.raw = path.read_bytes()
        self.head = self._choose_head()
        self.chain, self.file = self.head[32:48], self.head[48:64]
        self.password, self.rsa, self.seed = None, rsa_pair(1), None
        self.key = self._unwrap()
        self._check_head()
