"""Charts as SVG: lines, and points with names, on axes with round numbers."""
import math
from html import escape
from typing import List, NamedTuple, Sequence, Tuple

from .content import Bar, Chart, Series
from .style import COLOURS

#: Size of a chart, and the room for its axes, in the units of the picture.
WIDTH, HEIGHT, TOP, RIGHT, BOTTOM = 420.0, 250.0, 14.0, 14.0, 42.0
#: Height of the headline of a picture file.
HEADLINE = 26.0
#: About the width of a character.
CHARACTER = 6.8
#: Least part of its values that a vertical axis covers, so that small differences do not look large.
LEAST_SPAN = 0.02
#: Where the name of a point may stand: to the right and down from it, and which end of it is there.
PLACES = ((9, 4, 'start'), (-9, 4, 'end'), (0, -11, 'middle'), (0, 20, 'middle'), (9, -11, 'start'), (9, 19, 'start'),
          (-9, -11, 'end'), (-9, 19, 'end'))


class Axis(NamedTuple):
    """The numbers of an axis: its ends, where lines stand, and what is written at them."""

    low: float
    high: float
    ticks: Sequence[float]
    labels: Sequence[str]

    def place(self, value: float, start: float, end: float) -> float:
        """Return where a value stands between two ends."""
        return start + (value - self.low) / (self.high - self.low) * (end - start)


class Box(NamedTuple):
    """A rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: 'Box') -> bool:
        """Tell whether two rectangles have something in common."""
        return (self.left < other.right and other.left < self.right
                and self.top < other.bottom and other.top < self.bottom)


def axis(low: float, high: float, most: int = 5) -> Axis:
    """Return an axis from ``low`` to ``high`` with at most so many steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if span / (factor * step) <= most)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    ticks = [number * step for number in range(first, last + 1)]
    return Axis(low, high, ticks, [f'{tick:,.{digits}f}' for tick in ticks])


def _axes(chart: Chart) -> Tuple[Axis, Axis]:
    xs = [x for series in chart.series for x, _ in series.points]
    ys = [y for series in chart.series for _, y in series.points] + ([] if chart.mark is None else [chart.mark])
    right, low, high = max(xs), min([0.0, *ys] if chart.up_from_zero else ys), max(ys)
    lack = max(0.0, LEAST_SPAN * max(abs(low), abs(high)) - (high - low)) / 2 or (0.5 if high == low else 0.0)
    low, high = low - lack, high + lack
    pad = 0.08 * (high - low)
    named = any(series.labels for series in chart.series)
    bottom = low if chart.up_from_zero and low == 0 else low - pad
    return axis(0.0, (right if right > 0 else 1.0) * (1.08 if named else 1.0)), axis(bottom, high + pad)


def chart_svg(chart: Chart, alone: bool = False) -> str:
    """Return a chart as an ``<svg>`` element.

    Args:
        chart (Chart): What is drawn.
        alone (bool): It is a file of its own, with headline and colours; else part of a page that has them.
    """
    across, up = _axes(chart)
    left = 12 + CHARACTER * max(map(len, up.labels), default=1)
    frame = Box(left, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
    parts = [*_grid(across, up, frame, chart.x)]
    if chart.mark is not None:
        y = up.place(chart.mark, frame.bottom, frame.top)
        parts.append(f'<line class="mark" x1="{frame.left:.1f}" x2="{frame.right:.1f}" y1="{y:.1f}" y2="{y:.1f}">'
                     f'<title>asked: {chart.mark:g}</title></line>'
                     f'<text x="{frame.left + 6:.1f}" y="{y - 5:.1f}">asked</text>')
    taken: List[Box] = []
    for series in chart.series:
        places = [(across.place(x, frame.left, frame.right), up.place(y, frame.bottom, frame.top))
                  for x, y in series.points]
        taken += [Box(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    for series in chart.series:
        places = [(across.place(x, frame.left, frame.right), up.place(y, frame.bottom, frame.top))
                  for x, y in series.points]
        parts += _named(series, places, frame, taken) if series.labels else _line(series, places)
    return _element(parts, chart, alone)


def _element(parts: Sequence[str], chart: Chart, alone: bool) -> str:
    body = '\n'.join(parts)
    label = f'role="img" aria-label="{escape(chart.title)}"'
    if not alone:
        return f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" {label}>\n{body}\n</svg>'
    style = COLOURS + 'svg { background: var(--ground); }'
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {-HEADLINE:.0f} {WIDTH:.0f} {HEIGHT + HEADLINE:.0f}" '
            f'width="{WIDTH:.0f}" {label}>\n<style>{style}</style>\n'
            f'<text class="label" x="8" y="-7">{escape(chart.title)}</text>\n{body}\n</svg>\n')


def _grid(across: Axis, up: Axis, frame: Box, name: str) -> List[str]:
    parts = []
    for value, label in zip(up.ticks, up.labels):
        y = up.place(value, frame.bottom, frame.top)
        parts += [f'<line class="grid" x1="{frame.left:.1f}" x2="{frame.right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>',
                  f'<text x="{frame.left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{label}</text>']
    for value, label in zip(across.ticks, across.labels):
        x = across.place(value, frame.left, frame.right)
        parts += [f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.bottom:.1f}" y2="{frame.bottom + 4:.1f}"/>',
                  f'<text x="{x:.1f}" y="{frame.bottom + 17:.1f}" text-anchor="middle">{label}</text>']
    middle = (frame.left + frame.right) / 2
    parts += [f'<line class="axis" x1="{frame.left:.1f}" x2="{frame.right:.1f}" y1="{frame.bottom:.1f}" '
              f'y2="{frame.bottom:.1f}"/>',
              f'<text x="{middle:.1f}" y="{HEIGHT - 6:.1f}" text-anchor="middle">{escape(name)}</text>']
    return parts


def _line(series: Series, places: Sequence[Tuple[float, float]]) -> List[str]:
    points = ' '.join(f'{x:.1f},{y:.1f}' for x, y in places)
    parts = [f'<polyline class="{series.kind}" points="{points}"/>'] if len(places) > 1 else []
    shown = zip(series.points, places) if len(places) <= 30 else zip(series.points[-1:], places[-1:])
    return parts + [f'<circle class="{series.kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.6"><title>{at:g}: {value:.4g}'
                    '</title></circle>' for (at, value), (x, y) in shown]


def _named(series: Series, places: Sequence[Tuple[float, float]], frame: Box, taken: List[Box]) -> List[str]:
    """Return points with their names, each where it covers no other; ``taken`` is added to."""
    parts = []
    for (at, value), (x, y), label in zip(series.points, places, series.labels):
        dx, dy, anchor, box = _free_place(x, y, label, frame, taken)
        taken.append(box)
        parts += [f'<circle class="{series.kind}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{escape(label)}: {at:.4g}, '
                  f'{value:.4g}</title></circle>',
                  f'<text class="label" x="{x + dx:.1f}" y="{y + dy:.1f}" text-anchor="{anchor}">{escape(label)}'
                  '</text>']
    return parts


def _free_place(x: float, y: float, label: str, frame: Box, taken: Sequence[Box]) -> Tuple[float, float, str, Box]:
    width = CHARACTER * len(label)
    found = []
    for dx, dy, anchor in PLACES:
        left = x + dx - {'start': 0.0, 'middle': width / 2, 'end': width}[anchor]
        box = Box(left, y + dy - 11, left + width, y + dy + 3)
        outside = box.left < frame.left or box.right > WIDTH or box.top < 0 or box.bottom > frame.bottom
        found.append((outside + sum(box.overlaps(one) for one in taken), dx, dy, anchor, box))
    _, dx, dy, anchor, box = min(found, key=lambda one: one[0])
    return dx, dy, anchor, box


def bar_svg(bar: Bar, longest: float) -> str:
    """Return the parts of a bar, one behind the other, as an ``<svg>`` as wide as its place; ``longest`` fills it."""
    parts, start = [], 0.0
    for kind, size in bar.parts:
        width = 100 * size / longest if longest else 0.0
        if width:
            parts.append(f'<rect class="{kind}" x="{start:.2f}%" width="{width:.2f}%" height="100%"/>')
        start += width
    return f'<svg aria-hidden="true">{"".join(parts)}</svg>'
