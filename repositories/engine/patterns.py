"""Include and exclude patterns: globs much like those of .gitignore, over bytes.

* `*` matches within one name, `?` one byte, `[a-z]` and `[!a-z]` a set, `**` any number of folders. `\\` quotes.
* A pattern without a slash (`*.tmp`, `node_modules`) matches the name of anything, at any depth.
* A pattern that begins with a slash (`/home/*/.cache`) matches the absolute path.
* Another pattern with a slash inside (`cache/*.db`) matches the path below any source's folder it begins at: it is
  taken as `**/cache/*.db`.
* A slash at the end (`build/`) matches folders only.
* `!` in front takes an earlier match back; the last pattern that matches decides. What lies below an excluded folder
  is never looked at, so it cannot be taken back.

Exclude patterns leave out what they match, with everything below. Include patterns, if there are any, keep only what
they match and everything below; the folders on the way to it are kept too. Excluding wins over including.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from repositories.engine.errors import BadPattern


@dataclass(frozen=True, slots=True)
class _Rule:
    expression: re.Pattern[bytes]
    negated: bool
    folders_only: bool
    whole_path: bool


class Patterns:
    """A list of patterns. `bool(patterns)` says whether there are any."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._rules = [_compile(pattern) for pattern in patterns if pattern.strip()]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def match(self, path: bytes, name: bytes, is_folder: bool) -> bool:
        """`path` is absolute without the leading slash."""
        for rule in reversed(self._rules):
            if rule.folders_only and not is_folder:
                continue
            if rule.expression.fullmatch(path if rule.whole_path else name):
                return not rule.negated
        return False


def _compile(pattern: str) -> _Rule:
    text = pattern.strip()
    negated = text.startswith("!")
    body = text[1:] if negated else text
    folders_only = body.endswith("/")
    anchored = body.startswith("/")
    body = body.strip("/")
    whole_path = anchored or "/" in body
    if not body:
        raise BadPattern(f"The pattern “{pattern}” matches nothing; remove it or complete it.", pattern=pattern)
    if whole_path and not anchored:
        body = "**/" + body
    try:
        expression = re.compile(_translate(body.encode("utf-8", "surrogateescape")), re.DOTALL)
    except re.error as error:
        raise BadPattern(f"The pattern “{pattern}” cannot be understood: {error}.", pattern=pattern) from None
    return _Rule(expression, negated, folders_only, whole_path)


def _translate(glob: bytes) -> bytes:
    out, at = b"", 0
    while at < len(glob):
        piece, at = _next(glob, at)
        out += piece
    return out


def _next(glob: bytes, at: int) -> tuple[bytes, int]:
    """The expression for what stands at `at`, and where the next one begins."""
    rest = glob[at:]
    if rest.startswith(b"**/") and (at == 0 or glob[at - 1 : at] == b"/"):
        return rb"(?:[^/]+/)*", at + 3
    if rest == b"**" and (at == 0 or glob[at - 1 : at] == b"/"):
        return rb".+", at + 2
    if rest.startswith(b"*"):
        return rb"[^/]*", at + len(rest) - len(rest.lstrip(b"*"))
    if rest.startswith(b"?"):
        return rb"[^/]", at + 1
    if rest.startswith(b"\\") and len(rest) > 1:
        return re.escape(rest[1:2]), at + 2
    if rest.startswith(b"["):
        return _set(glob, at)
    return re.escape(rest[:1]), at + 1


def _set(glob: bytes, at: int) -> tuple[bytes, int]:
    first = at + 2 if glob[at + 1 : at + 2] in (b"!", b"^") else at + 1
    end = glob.find(b"]", first + 1)
    if end < 0:
        return rb"\[", at + 1
    inside = glob[first:end].replace(b"\\", rb"\\").replace(b"[", rb"\[").replace(b"^", rb"\^")
    negation = b"^/" if first == at + 2 else b""
    return b"(?!/)[" + negation + inside + b"]", end + 1
