"""docs/FORMAT.md is enough to read a backup: a reader written from it gives back what the engine wrote."""

import os
import random
import stat
from pathlib import Path

import msgspec
import pytest

from repositories.engine import backup, segment_codec
from repositories.engine.backup import Level
from repositories.engine.checkpoint import parse_checkpoint
from repositories.engine.keyring import parse_keyring
from repositories.engine.layout import Malformed
from repositories.engine.manifest import Root, parse_root
from tests.engine.lab import Chain, facts_on_disk, write_tree
from tests.engine.second_reader import Refused, SecondReader


def read_plainly(folder: Path) -> dict[bytes, tuple[int, int, bytes]]:
    return {path: (fact[0], fact[3], fact[6] or b"") for path, fact in facts_on_disk(folder).items()}


@pytest.mark.parametrize("level", [Level.NONE, Level.BALANCED])
@pytest.mark.parametrize("passwords", [("first", "zweites Paßwort ", "third"), ()], ids=["encrypted", "plain"])
def test_the_second_reader_reads_a_chain(tmp_path: Path, passwords: tuple[str, ...], level: Level) -> None:
    source, dice = tmp_path / "source", random.Random(7)
    write_tree(source, {f"folder {i % 3}/{i}": dice.randbytes(i * 7) for i in range(60)})
    write_tree(source, {"large": dice.randbytes(1_500_000), "text": b"text " * 120_000, "empty": b""})
    (source / "link").symlink_to("elsewhere")
    os.link(source / "text", source / "text again")
    os.utime(source / "empty", ns=(0, -5))
    with open(source / "sparse", "wb") as file:
        file.truncate(5_000_000)
    Path(os.fsdecode(os.fsencode(source) + b"/\xff\n")).write_bytes(b"odd")
    chain = Chain(tmp_path / "repository", source, passwords)
    for number in range(3):
        chain.write(passwords=passwords[number : number + 1], level=level)
        truth = read_plainly(source)
        password = passwords[number] if passwords else None
        reader = SecondReader(chain.points[-1].path, password)
        found = {path: fact for path, fact in reader.files().items() if path in truth}
        assert found == truth
        assert reader.seal_hash == chain.points[-1].seal_hash
        assert all(stat.S_ISDIR(fact[0]) for path, fact in reader.files().items() if path not in truth)
        write_tree(
            source, {f"folder {number}/new": b"new", "large": dice.randbytes(10) + (source / "large").read_bytes()}
        )


def test_the_second_reader_refuses_what_it_should(tmp_path: Path) -> None:
    write_tree(tmp_path / "source", {"a": b"a"})
    written = Chain(tmp_path / "repository", tmp_path / "source").write()
    with pytest.raises(Refused):
        SecondReader(written.path, "wrong")
    with open(written.path, "r+b") as file:
        file.truncate(written.length - 1)
    with pytest.raises(Refused):
        SecondReader(written.path, "correct horse")


class LaterExtras(segment_codec._Extras, array_like=True, frozen=True):
    """The extras of a segment as a later release may write them."""

    more: tuple[str, ...] = ("new",)


def more_at_every_end(value: object) -> list:
    """A root with a further element behind each of its records of fields."""
    facts, origins, segments, runs = msgspec.msgpack.decode(msgspec.msgpack.encode(value))
    return [[*facts, {"new": 1}], origins, [[*row, 7] for row in segments], [[*row, None] for row in runs], "new"]


def test_fields_of_a_later_release_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    write_tree(source, {"a/b": b"content", "c": b"more"})
    chain = Chain(tmp_path / "repository", source)
    with monkeypatch.context() as later_release:
        later_release.setattr(backup, "pack_root", lambda root: msgspec.msgpack.encode(more_at_every_end(root)))
        pack_keyring = backup.pack_keyring
        later_release.setattr(
            backup,
            "pack_keyring",
            lambda keyring: msgspec.msgpack.encode([*msgspec.msgpack.decode(pack_keyring(keyring)), [1]]),
        )
        later_release.setattr(segment_codec, "_Extras", LaterExtras)
        written = chain.write()
    reader = SecondReader(written.path, "correct horse")
    assert len(reader.root) == 5 and len(reader.root[0]) == 20
    truth = read_plainly(source)
    assert {path: fact for path, fact in reader.files().items() if path in truth} == truth
    with chain.open() as point:
        assert point.summary.files == 2
    assert chain.write().unchanged_files == 2
    with chain.open() as point:
        assert point.root.segments[0].origin == 1  # the segment with the further field is shared


def test_options_that_are_not_there_are_none(tmp_path: Path) -> None:
    write_tree(tmp_path / "source", {"a": b"a"})
    chain = Chain(tmp_path / "repository", tmp_path / "source")
    chain.write()
    with chain.open() as point:
        facts, *rest = msgspec.msgpack.decode(msgspec.msgpack.encode(point.root))
    assert facts[-1] == []
    root = parse_root(msgspec.msgpack.encode([facts[:-1], *rest]))
    assert isinstance(root, Root) and root.facts.options == []
    with pytest.raises(Malformed):
        parse_root(msgspec.msgpack.encode([facts[:-2], *rest]))


def test_keyrings_and_checkpoints_may_grow_too() -> None:
    keyring = parse_keyring(msgspec.msgpack.encode([bytes(32), {bytes(16): bytes(32)}, "new"]))
    assert len(keyring.file_keys) == 1
    settings = ["full", "none", [b"/s"], [], [], bytes(16), bytes(32)]
    begun = [[b"p", [1, 2, 3, 4, 5], 0, bytes(16), "new"]]
    rest = [bytes(32), 1, [bytes(16)], [], b"", [], [], begun]
    assert parse_checkpoint(msgspec.msgpack.encode([settings, *rest])).settings.options == []
    grown = parse_checkpoint(msgspec.msgpack.encode([[*settings, ["skip-caches"], "new"], *rest, "new"]))
    assert grown.settings.options == ["skip-caches"] and grown.begun[0].path == b"p"
