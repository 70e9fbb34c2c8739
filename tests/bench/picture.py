"""Peak memory against files and points as a picture: an SVG of bars that reads well on light and on dark pages. Drawn
from the figures alone, so that the same figures give the same picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from tests.bench.figures import Figure

MIB = 2**20
WIDTH, HEIGHT = 760, 340
LEFT, TOP, BOTTOM = 64, 64, 284  # the left end of the scale, the upper and the lower one of the bars
PANEL_WIDTH, PANEL_GAP = 320, 24
BAR_WIDTH, BAR_GAP = 24, 4
LIMIT_MIB = 256  # the design's limit for a session
TITLES = {"backup": "writing the last point", "restore": "restoring it whole"}
STYLE = """
    text { font: 12px system-ui, sans-serif; fill: #3d4451 }
    .title { font-size: 14px; font-weight: 600; fill: #1b1f27 }
    .value { font-size: 10px }
    .middle { text-anchor: middle } .end { text-anchor: end }
    .rule { stroke: #d5d9e0; stroke-width: 1 }
    .limit { stroke: #b3402e; stroke-width: 1; stroke-dasharray: 4 3 } .limit-text { fill: #b3402e }
    .bar0 { fill: #9ec1e6 } .bar1 { fill: #4c86c6 } .bar2 { fill: #1f4f8b }
    @media (prefers-color-scheme: dark) {
      text { fill: #b9c0cc } .title { fill: #eceff4 }
      .rule { stroke: #3a414d }
      .limit { stroke: #f08a78 } .limit-text { fill: #f08a78 }
      .bar0 { fill: #2f5f94 } .bar1 { fill: #5b97d8 } .bar2 { fill: #b4d4f5 }
    }
"""


def draw(memory: list[Figure]) -> str:
    files, points = (sorted({figure[name] for figure in memory}) for name in ("files", "points"))
    peak = {(figure["session"], figure["files"], figure["points"]): figure["peak_bytes"] / MIB for figure in memory}
    top = scale_end(max(*peak.values(), LIMIT_MIB))
    described = "Peak memory in MiB by number of files and of restore points, for a backup and for a restore"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(described)}">',
        f"<title>{escape(described)}</title>",
        f"<style>{STYLE}</style>",
        *scale(top),
        *legend(points),
    ]
    for number, (session, title) in enumerate(TITLES.items()):
        left = LEFT + number * (PANEL_WIDTH + PANEL_GAP)
        lines += [text(left + PANEL_WIDTH / 2, 46, title, "title middle")]
        for place, count in enumerate(files):
            heights = [peak.get((session, count, number_of)) for number_of in points]
            lines += group(left + (place + 0.5) * PANEL_WIDTH / len(files), count, heights, top)
    return "\n".join([*lines, "</svg>"]) + "\n"


def scale_end(largest: float) -> int:
    return int(-(-largest * 1.08 // 64) * 64)


def scale(top: int) -> Iterator[str]:
    right = LEFT + 2 * PANEL_WIDTH + PANEL_GAP
    for mib in range(0, top + 1, 64 if top <= 512 else 256):
        yield line(LEFT, right, height(mib, top), "rule")
        yield text(LEFT - 8, height(mib, top) + 4, f"{mib} MiB" if mib else "0", "end")
    yield line(LEFT, right, height(LIMIT_MIB, top), "limit")
    yield text(right, height(LIMIT_MIB, top) - 5, "what a session may need", "end limit-text value")


def legend(points: list[int]) -> Iterator[str]:
    at = LEFT
    for number, count in enumerate(points):
        shown = f"{count} restore point{'s' * (count > 1)}"
        yield f'<rect class="bar{number}" x="{at}" y="14" width="12" height="12" rx="2"/>'
        yield text(at + 18, 24, shown, "")
        at += 40 + 7 * len(shown)


def group(middle: float, files: int, heights: list[float | None], top: int) -> Iterator[str]:
    """The bars of one number of files, one a number of points; a figure that is missing has no bar."""
    at = middle - (len(heights) * (BAR_WIDTH + BAR_GAP) - BAR_GAP) / 2
    for number, mib in enumerate(heights):
        if mib is not None:
            y = height(mib, top)
            yield (
                f'<rect class="bar{number}" x="{at:g}" y="{y:g}" width="{BAR_WIDTH}" height="{BOTTOM - y:g}" rx="2"/>'
            )
            yield text(at + BAR_WIDTH / 2, y - 4, f"{mib:.0f}", "middle value")
        at += BAR_WIDTH + BAR_GAP
    yield text(middle, BOTTOM + 18, f"{files:,} files", "middle")


def height(mib: float, top: int) -> float:
    return round(BOTTOM - mib / top * (BOTTOM - TOP), 1)


def line(left: float, right: float, y: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{left:g}" x2="{right:g}" y1="{y:g}" y2="{y:g}"/>'


def text(x: float, y: float, content: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(content)}</text>'
