"""docs/performance.md and its picture from the stored figures; the prose stands in performance.template.md.

python -m tests.bench.document                     write the page anew from docs/performance.json
python -m tests.bench.document --from FIGURES      take these figures into docs/performance.json first
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from string import Template

from tests.bench.figures import Figure, as_json, load, rows
from tests.bench.picture import draw
from tests.bench.table import HEAD, MIB, markdown, memory_cells, number_cells, tree_cells
from tests.bench.targets import against_limit, lines
from tests.bench.tools import PROJECT, STEPS

DOCS = PROJECT / "docs"
FIGURES = DOCS / "performance.json"
PAGE = DOCS / "performance.md"
PICTURE = DOCS / "images" / "memory.svg"
TEMPLATE = Path(__file__).with_name("performance.template.md")
QUICK = "**These figures are of the quick form: they show that the benchmark works, and say nothing about speed.**"
TARGET_HEAD = ("what", "measured", "wanted", "reached")
LIMIT_HEAD = ("tree", "full", "encrypted against plain", "limit, encrypted, plain")


def page(figures: Figure) -> str:
    """Raises SystemExit if a part of the figures is missing."""
    if missing := [part for part in ("trees", "measurements", "memory", "numbers") if not figures.get(part)]:
        raise SystemExit(f"The figures have no {', '.join(missing)}: let `make bench` go on with --continue.")
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        warning=f"\n\n{QUICK}" if figures["machine"]["quick"] else "",
        machine=machine(figures),
        targets=markdown([TARGET_HEAD, *lines(figures)]),
        trees="\n\n".join(tree_part(figures, tree) for tree in figures["trees"]),
        limits=markdown([LIMIT_HEAD, *against_limit(figures, lambda tree: rows(figures, tree, STEPS))]),
        memory=markdown(memory_cells(figures)),
        numbers=markdown(number_cells(figures)),
    )


def machine(figures: Figure) -> str:
    facts = figures["machine"]
    memory = f"{facts['memory_bytes'] / 2**30:.0f} GiB of memory"
    lines = [
        ("date", facts["date"]),
        ("machine", f"{facts['cores']} cores ({facts['processor']}), {memory}, {facts['system']}"),
        ("Python", f"{facts['python']}; {facts['libraries']}"),
        *((tool, version) for tool, version in versions(figures).items()),
        *((peer, "was not there") for peer in facts["missing"]),
    ]
    return markdown([("", ""), *lines])


def versions(figures: Figure) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for figure in figures["measurements"]:
        if figure["tool"] in ("backupsite", "restic", "borg"):
            found.setdefault(figure["tool"], set()).add(figure["version"])
    return {tool: " and ".join(sorted(names)) for tool, names in found.items()}


def tree_part(figures: Figure, tree: Figure) -> str:
    title = f"### ({tree['key']}) {tree['title']}"
    size = f"{tree['files']:,} files, {tree['size_bytes'] / MIB:,.0f} MiB, in {tree['where']}."
    change = f"Changed: {tree['change']} ({tree['changed_places']:,} places)."
    folder = f"One folder: {tree['folder_files']:,} files."
    cells = [HEAD, *tree_cells(figures, tree["key"], with_versions=False)]
    return f"{title}\n\n{size} {change} {folder}\n\n{markdown(cells)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.document", description=__doc__)
    parser.add_argument("--from", dest="source", type=Path, metavar="FIGURES", help="take these figures into docs/")
    options = parser.parse_args()
    if options.source:
        FIGURES.write_text(as_json(load(options.source)), encoding="utf-8")
    figures = load(FIGURES)
    PAGE.write_text(page(figures), encoding="utf-8")
    PICTURE.write_text(draw(figures["memory"]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
