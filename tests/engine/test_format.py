"""docs/FORMAT.md is enough to read a backup: a reader written from it gives back what the engine wrote."""

import os
import random
import stat
from pathlib import Path

import pytest

from repositories.engine.backup import Level
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
