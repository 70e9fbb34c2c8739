"""Further numbers of the engine: opening a folder of a large point, one file from an early and a late point, exchanging
key slots, and reading what a repository of many points holds. All but recovering a file is measured inside one process,
as the console does it, with keys that are ready:

    python -m tests.bench.numbers FOLDER FILES POINTS       prints one JSON object a line

FILES are those of the large point, POINTS those of the long chain.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

from keys.crypto_password import KdfParameters, derive_kek, new_salt, password_bytes
from keys.crypto_recipients import PasswordRecipient
from repositories.engine.chains import scan_chain
from repositories.engine.entries import Entry
from repositories.engine.expectation import Expected
from repositories.engine.order import Written
from repositories.engine.reader import FileKey, open_point
from repositories.engine.rewrap_many import THREADS, Exchange, KnownFile, rewrap_many
from tests.bench.changes import Changes, of_tree
from tests.bench.generated import FILES_A_FOLDER, share_out, small_files
from tests.bench.growing import Chain, recipient
from tests.bench.tools import PASSWORD, Engine

CHAIN_POINTS = 30
SAMPLES = 20
COMMANDS = 5
SMALL_TREE_FILES = 200
Number = dict[str, object]


def timed_ms(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def number(name: str, title: str, value: float, unit: str, target: float | None, detail: str = "") -> Number:
    return {"name": name, "title": title, "value": round(value, 6), "unit": unit, "target": target, "detail": detail}


def all_numbers(folder: Path, files: int, points: int) -> Iterator[Number]:
    yield derivation()
    yield from large_point(folder / "large", files)
    yield from long_chain(folder / "long", points)


def derivation() -> Number:
    password, salt = password_bytes(PASSWORD), new_salt()
    spent = [timed_ms(lambda: derive_kek(password, salt=salt, parameters=KdfParameters())) for _ in range(3)]
    return number("derivation", "deriving the key from a password, once a session", median(spent), "ms", None)


def new_chain(folder: Path, files: int) -> Chain:
    source = folder / "tree"
    source.mkdir(parents=True)
    share_out(small_files, source, range(files), FILES_A_FOLDER)
    return Chain(folder / "repository", source, recipient(password_bytes(PASSWORD)))


def lengthen(chain: Chain, changes: Changes, points: int) -> None:
    while len(chain.points) < points:
        changes.make_little(len(chain.points))
        chain.write()


def large_point(folder: Path, files: int) -> Iterator[Number]:
    chain = new_chain(folder, files)
    chain.write()
    changes = of_tree(chain.source)
    lengthen(chain, changes, CHAIN_POINTS)
    draw = random.Random(3)
    folders = sorted(path for path in chain.source.glob("*/*") if path.is_dir())
    wanted = [inside(path) for path in draw.choices(folders, k=SAMPLES)]
    spent = [timed_ms(partial(open_folder, chain, path)) for path in wanted]
    title = f"opening a folder of a point of {files:,} files, the {CHAIN_POINTS}th of its chain"
    slowest = f"median of {SAMPLES} folders of {FILES_A_FOLDER} files; the slowest {max(spent):.0f} ms"
    yield number("folder", title, median(spent), "ms", 200, slowest)
    changed = {patch.path for patch in changes.small}
    first_files = [min(path.iterdir()) for path in draw.choices(folders, k=SAMPLES)]
    steady = [path for path in first_files if os.fspath(path) not in changed]
    yield from one_file(chain, folder, steady[:COMMANDS])


def inside(path: Path) -> bytes:
    return os.fsencode(path)[1:]


def key_of(written: Written) -> FileKey:
    assert written.file_key is not None  # these chains are encrypted
    return FileKey(written.file_key)


def open_folder(chain: Chain, path: bytes) -> list[Entry]:
    newest = chain.points[-1]
    with open_point(newest.path, key_of(newest)) as point:
        return point.list_folder(path)


def one_file(chain: Chain, folder: Path, paths: list[Path]) -> Iterator[Number]:
    """The same files from the full and from the last point, by turns, so that both see the same machine."""
    engine, last = Engine(), len(chain.points)
    engine.prepare(folder, chain.source)
    spent: dict[int, list[float]] = {1: [], last: []}
    for path in paths:
        for point, seconds in spent.items():
            into = folder / f"restored-{point}"
            seconds.append(engine.restore(folder, into, point, path).seconds)
            if not (into / path.relative_to("/")).is_file():
                raise SystemExit(f"Point {point} did not give {path} back.")
            shutil.rmtree(into)
    full, late = median(spent[1]), median(spent[last])
    title = f"recovering one file from point {last} against from the full, in time"
    detail = f"the whole command: {late * 1000:.0f} ms against {full * 1000:.0f} ms, medians of {len(paths)}"
    yield number("one-file", title, late / full, "times", 1.2, detail)


def long_chain(folder: Path, points: int) -> Iterator[Number]:
    chain = new_chain(folder, SMALL_TREE_FILES)
    chain.write()
    lengthen(chain, of_tree(chain.source), points)
    place = chain.repository / str(chain.chain_id)
    spent = median(timed_ms(lambda: scan_chain(place)) for _ in range(3))
    yield number("scan", f"finding {points:,} points in a repository, without a key", spent / 1000, "s", None)
    spent = timed_ms(lambda: catalogue(chain))
    yield number("catalogue", f"opening {points:,} points and reading what they say", spent / 1000, "s", points / 100)
    new = recipient(password_bytes(PASSWORD + " of today"))
    spent = timed_ms(lambda: exchange(chain, new))
    title = f"exchanging the key slots of {points:,} points (rewrap)"
    detail = f"no block is read or written; {THREADS} files at a time, both copies of each head synced to the disk"
    yield number("rewrap", title, spent / 1000, "s", points * 60 / 10_000, detail)


def catalogue(chain: Chain) -> int:
    """What a rescan does: find every file, open it with the keys of the newest one, take what it says."""
    newest, place = chain.points[-1], chain.repository / str(chain.chain_id)
    with open_point(newest.path, key_of(newest)) as point:
        keys = {**point.earlier_file_keys, newest.file_id: key_of(newest).value}
    files = 0
    for found in scan_chain(place).files:
        assert found.head is not None  # nothing here is damaged
        with open_point(found.path, FileKey(keys[found.head.file_id])) as point:
            files += point.summary.files
    return files


def exchange(chain: Chain, new: PasswordRecipient) -> None:
    """What a rewrap session does with the files, the newest last."""
    old = chain.recipient
    wanted = Exchange((new,), ((old.record, old.version),))
    known = ((p, Expected(p.file_id, p.seal_hash, p.head_generation)) for p in chain.points)
    files = [KnownFile(point.path, expected, key_of(point).value) for point, expected in known]
    for result in rewrap_many(files, wanted, lambda: False):
        if not result.written:
            raise SystemExit(f"A point was not rewrapped: {result.problem}")


if __name__ == "__main__":
    for found in all_numbers(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])):
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
