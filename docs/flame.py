"""The flame graph of the performance page: where a worker's processor time goes, by the stacks of `benchmarks/flame.txt`."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path

STACKS = Path(__file__).parents[1] / "benchmarks" / "flame.txt"
WIDTH, ROW, LEAST = 1200, 17, 1.5
"""Of the picture, of a row, and of the narrowest box that is drawn, in pixels."""
LETTER = 6.1
Tree = dict[str, "Frame"]


class Frame:
    """A function on the stack: the samples in it, and what it called."""

    def __init__(self) -> None:
        self.samples, self.calls = 0, Tree()


def svg(lines: Iterable[str] | None = None) -> str:
    """Return the picture as SVG.

    Args:
        lines: stacks as py-spy's raw format has them: frames by semicolons, outermost first, then the number of samples.
    """
    root = _tree(STACKS.read_text().splitlines() if lines is None else lines)
    boxes = list(_boxes(root.calls, 0.0, 0, WIDTH / root.samples))
    height = (1 + max(depth for _, _, depth, *_ in boxes)) * ROW
    drawn = (_box(x, width, depth, name, samples / root.samples) for x, width, depth, name, samples in boxes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="ui-monospace, monospace" '
        f'font-size="10" role="img"><title>Where a worker spends its processor time</title>{"".join(drawn)}</svg>'
    )


def _tree(lines: Iterable[str]) -> Frame:
    root = Frame()
    for line in lines:
        stack, _, samples = line.rpartition(" ")
        frame = root
        frame.samples += int(samples)
        for name in stack.split(";"):
            frame = frame.calls.setdefault(name, Frame())
            frame.samples += int(samples)
    return root


def _boxes(
    calls: Mapping[str, Frame], x: float, depth: int, scale: float
) -> Iterator[tuple[float, float, int, str, int]]:
    for name, frame in sorted(calls.items()):
        if (width := frame.samples * scale) >= LEAST:
            yield x, width, depth, name, frame.samples
            yield from _boxes(frame.calls, x, depth + 1, scale)
        x += width


def _box(x: float, width: float, depth: int, name: str, share: float) -> str:
    hue, y = 20 + zlib.crc32(name.encode()) % 35, depth * ROW
    shown = name[: int(width / LETTER)] if width > 4 * LETTER else ""
    return (
        f'<g><title>{escape(name)}: {share:.1%}</title><rect x="{x:.1f}" y="{y}" width="{max(width - 0.5, 0.5):.1f}" '
        f'height="{ROW - 1}" rx="2" fill="hsl({hue} 85% 68%)"/>'
        f'<text x="{x + 3:.1f}" y="{y + 12}" fill="#1f2933">{escape(shown)}</text></g>'
    )
