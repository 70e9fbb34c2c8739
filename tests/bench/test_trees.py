"""Made-up trees are the same every time, and every change can be taken back."""

from __future__ import annotations

import os
from pathlib import Path

from tests.bench import changes, generated, trees


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_small_files_depend_on_their_number_only(tmp_path: Path) -> None:
    generated.small_files(tmp_path / "at-once", 0, 250)
    for first, count in ((0, 30), (30, 170), (200, 50)):
        generated.small_files(tmp_path / "in-parts", first, count)
    at_once = contents(tmp_path / "at-once")
    assert len(at_once) == 250
    assert at_once == contents(tmp_path / "in-parts")
    assert len({path.rpartition("/")[0] for path in at_once}) == 3


def test_an_image_has_holes_text_and_noise(tmp_path: Path) -> None:
    generated.main("image", tmp_path, 64)
    image = tmp_path / "disk.img"
    facts = image.stat()
    assert facts.st_size == 64 * generated.MIB
    assert 0 < facts.st_blocks * 512 < facts.st_size
    made = changes.of_tree(tmp_path)
    assert len(made.share) == 3
    assert all(patch.offset % changes.AREA_BYTES == 0 and 4096 <= patch.length <= 65536 for patch in made.share)
    before = facts.st_blocks
    made.make_share()
    assert image.stat().st_blocks == before


def test_changes_can_be_taken_back(tmp_path: Path) -> None:
    generated.small_files(tmp_path, 0, 400)
    before = contents(tmp_path)
    made = changes.of_tree(tmp_path)
    made.make_share()
    first = contents(tmp_path)
    assert sum(before[path] != first[path] for path in before) == len(made.share) >= 1
    made.make_little(4)
    made.make_little(5)
    assert contents(tmp_path) not in (before, first)
    made.take_back()
    assert contents(tmp_path) == before
    made.take_back()
    assert contents(tmp_path) == before


def test_the_same_files_change_every_time(tmp_path: Path) -> None:
    generated.small_files(tmp_path, 0, 400)
    assert changes.of_tree(tmp_path).share == changes.of_tree(tmp_path).share


def test_the_folder_to_restore_alone_has_about_so_many_files(tmp_path: Path) -> None:
    for name, count in (("few", 2), ("right", 5), ("many", 9)):
        (tmp_path / name / "inner").mkdir(parents=True)
        for number in range(count):
            (tmp_path / name / "inner" / str(number)).touch()
    os.symlink("nowhere", tmp_path / "few" / "link")
    assert trees.one_folder(tmp_path).name == "many"
    (tmp_path / "empty").mkdir()
    assert trees.one_folder(tmp_path / "few") == tmp_path / "few" / "inner"
