"""What the walk takes and leaves: patterns, sources within sources, folders that are never walked."""

import os
import subprocess
from pathlib import Path

import pytest

from repositories.engine.errors import BadPattern
from repositories.engine.patterns import Patterns
from repositories.engine.walk import ALWAYS_BELOW_ROOT, Walk, clean_sources
from tests.engine.lab import Chain, Recorder, facts_in_point, inside, write_tree


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.tmp", b"a/b.tmp", True),
        ("*.tmp", b"a/b.tmp.txt", False),
        ("b?", b"a/bc", True),
        ("b?", b"a/b", False),
        ("[a-c]x", b"bx", True),
        ("[!a-c]x", b"bx", False),
        ("[!a-c]x", b"dx", True),
        ("[", b"[", True),
        ("[]]", b"]", True),
        (r"\*", b"*", True),
        (r"\*", b"x", False),
        ("/home/*/.cache", b"home/alice/.cache", True),
        ("/home/*/.cache", b"srv/home/alice/.cache", False),
        ("/home/*/.cache", b"home/a/b/.cache", False),
        ("cache/*.db", b"srv/cache/x.db", True),
        ("cache/*.db", b"cache/x.db", True),
        ("cache/*.db", b"cache/y/x.db", False),
        ("/a/**/z", b"a/z", True),
        ("/a/**/z", b"a/b/c/z", True),
        ("/a/**", b"a/b/c", True),
        ("/a/**", b"a", False),
        ("**/x", b"x", True),
        ("é", "a/é".encode(), True),
        ("new\nline", b"new\nline", True),
        ("a.b", b"axb", False),
        ("^$|(", b"^$|(", True),
        ("*", b"any\nthing\xff", True),
    ],
)
def test_a_pattern(pattern: str, path: bytes, matches: bool) -> None:
    assert Patterns((pattern,)).match(path, path.rpartition(b"/")[2], False) is matches


def test_the_last_match_decides() -> None:
    patterns = Patterns(("*.log", "!keep.log", "/a/keep.log"))
    for path, matches in ((b"x.log", True), (b"b/keep.log", False), (b"a/keep.log", True), (b"x", False)):
        assert patterns.match(path, path.rpartition(b"/")[2], False) is matches


def test_a_slash_at_the_end_means_folders() -> None:
    patterns = Patterns(("build/",))
    assert patterns.match(b"x/build", b"build", True)
    assert not patterns.match(b"x/build", b"build", False)


@pytest.mark.parametrize("pattern", ["/", "!", "!/", "[z-a]"])
def test_a_pattern_that_means_nothing(pattern: str) -> None:
    with pytest.raises(BadPattern):
        Patterns((pattern,))


def test_no_patterns() -> None:
    assert not Patterns(())
    assert not Patterns(("", "  "))


def walk(
    *sources: Path, include: tuple[str, ...] = (), exclude: tuple[str, ...] = (), never: tuple[bytes, ...] = ()
) -> list[bytes]:
    chosen = clean_sources([os.fsencode(source) for source in sources], ())
    found = Walk(chosen, Patterns(include), Patterns(exclude), never, Recorder(), lambda: None)
    return [folder + name for folder, name, _, ancestor in found if not ancestor]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    names = ("a/b/c.txt", "a/b/d.log", "a/e.txt", "f/g.log", "h.txt", "empty/x/y.log")
    write_tree(tmp_path / "source", dict.fromkeys(names, b""))
    return tmp_path / "source"


def relative(found: list[bytes], source: Path) -> list[str]:
    prefix = inside(source)
    return [os.fsdecode(path[len(prefix) :].lstrip(b"/")) for path in found]


def test_everything_in_order(source: Path) -> None:
    expected = [
        "",
        "a",
        "a/b",
        "a/b/c.txt",
        "a/b/d.log",
        "a/e.txt",
        "empty",
        "empty/x",
        "empty/x/y.log",
        "f",
        "f/g.log",
        "h.txt",
    ]
    assert relative(walk(source), source) == expected


def test_components_are_sorted_not_strings(tmp_path: Path) -> None:
    write_tree(tmp_path / "s", {"a/x": b"", "a!": b"", "a0": b""})
    assert relative(walk(tmp_path / "s"), tmp_path / "s") == ["", "a", "a/x", "a!", "a0"]


def test_exclude_leaves_out_with_everything_below(source: Path) -> None:
    assert relative(walk(source, exclude=("b/", "*.log")), source) == [
        "",
        "a",
        "a/e.txt",
        "empty",
        "empty/x",
        "f",
        "h.txt",
    ]


def test_include_keeps_what_matches_and_the_way_to_it(source: Path) -> None:
    assert relative(walk(source, include=("*.txt",)), source) == ["", "a", "a/b", "a/b/c.txt", "a/e.txt", "h.txt"]
    assert relative(walk(source, include=("b/",)), source) == ["", "a", "a/b", "a/b/c.txt", "a/b/d.log"]
    assert relative(walk(source, include=("*.txt",), exclude=("b",)), source) == ["", "a", "a/e.txt", "h.txt"]
    assert relative(walk(source, include=("nothing",)), source) == [""]


def test_never_is_left_out_whole_also_by_another_name(source: Path, tmp_path: Path) -> None:
    assert "a/b" not in relative(walk(source, never=(os.fsencode(source / "a/b"),)), source)
    (tmp_path / "alias").symlink_to(source / "a/b")
    assert "a/b" not in relative(walk(source, never=(os.fsencode(tmp_path / "alias"),)), source)


def test_a_source_inside_another_is_walked_once(source: Path) -> None:
    assert walk(source, source / "a", source) == walk(source)


def test_a_source_that_is_a_file_or_a_link(source: Path, tmp_path: Path) -> None:
    assert walk(source / "h.txt") == [inside(source, "h.txt")]
    (tmp_path / "way").symlink_to(source / "a")
    assert relative(walk(tmp_path / "way"), tmp_path / "way") == ["", "b", "b/c.txt", "b/d.log", "e.txt"]


def test_links_below_a_source_are_not_followed(source: Path) -> None:
    (source / "loop").symlink_to(".")
    assert [path for path in relative(walk(source), source) if path.startswith("loop")] == ["loop"]


def test_the_folders_above_a_source_are_ancestors(tmp_path: Path, source: Path) -> None:
    chain = Chain(tmp_path / "repository", source)
    chain.write(sources=(os.fsencode(source / "a"), os.fsencode(source / "f")))
    (tmp_path / "source" / "noise").write_bytes(b"")
    written = chain.write(sources=(os.fsencode(source / "a"), os.fsencode(source / "f")))
    assert written.new_files == 0 and written.length < 200_000
    with chain.open() as point:
        entries = {entry.path: entry for entry in point.walk()}
        assert entries[inside(source)].ancestor and entries[inside(source)].is_directory
        assert not entries[inside(source, "a")].ancestor
        assert inside(source, "h.txt") not in entries
        assert [entry.name for entry in point.list_folder(inside(source))] == [b"a", b"f"]


def test_the_repository_in_a_source_is_not_in_its_backup(tmp_path: Path, source: Path) -> None:
    chain = Chain(source / "a/repository", source)
    chain.write()
    chain.write()
    with chain.open() as point:
        assert inside(source, "a/repository") not in facts_in_point(point)
        assert inside(source, "a/e.txt") in facts_in_point(point)


def test_proc_sys_and_dev_are_hollow_below_the_root() -> None:
    """The walk over the whole machine, stopped early: the three folders are there, and nothing in them."""
    never = tuple(b"/" + name for name in os.listdir(b"/") if b"/" + name not in ALWAYS_BELOW_ROOT)
    found = walk(Path("/"), never=never)
    assert {b"proc", b"sys", b"dev"} <= set(found)
    assert not any(path.startswith((b"proc/", b"sys/", b"dev/")) for path in found)


def test_a_deep_tree_needs_no_stack(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1_500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        assert len(walk(folder)) == 1_501
    finally:
        subprocess.run(["rm", "-r", folder], check=True)  # shutil.rmtree needs a stack
