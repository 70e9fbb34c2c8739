"""Check that each relative link in the given Markdown files and folders leads to a file, each anchor to a heading."""

import re
import sys
from pathlib import Path

LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a file."""
    headings = re.findall(r"^#+\s+(.+?)\s*$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def problems(path: Path) -> list[str]:
    found = []
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists():
            found.append(f"{path}: {target}: there is no such file")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            found.append(f"{path}: {target}: there is no such heading")
    return found


def main() -> None:
    files: list[Path] = []
    for argument in map(Path, sys.argv[1:]):
        if not argument.exists():
            sys.exit(f"{argument} is missing")
        files += sorted(argument.rglob("*.md")) if argument.is_dir() else [argument]
    found = [problem for path in files for problem in problems(path)]
    print("\n".join(found) or f"{len(files)} files: every link leads somewhere")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
