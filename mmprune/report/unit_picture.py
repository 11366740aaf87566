"""A picture of a model's units: layers are rows, units vertical lines, as in the history of a git repository."""
import os
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple, Union

from ..graph.channels import CoupledChannels
from ..graph.trace import Axis
from ..units.complexity import Complexity
from ..units.mutator import ChannelMutator
from .figure import INK, QUIET, new_figure, picture_format, row_labels, save_figure, text_width
from .lanes import assign_colours, assign_lanes

COLOURS = ('#2563ab', '#d9730d', '#0f8a7e', '#8250a8', '#c0392b', '#6f7d00')
STAYS, BAND, RULE = '#a3adb8', '#f4f6f8', '#d5dae0'
#: Sizes in points, as all sizes and places in this file.
LANE, ROW, MARGIN, GAP, ARROW, SIZE, HEAD = 11.0, 13.0, 18.0, 16.0, 8.0, 8.0, 88.0
#: What a layer does with the channels of a unit.
READS, WRITES = 1, 2
LEGEND = ((WRITES, 'layer produces the channels'), (READS, 'layer reads them'),
          (READS | WRITES, 'both, as a depthwise convolution'), (0, 'these channels stay'))
NOTE = 'channels of units that begin here'


@dataclass
class Row:
    """The texts of a conv or linear layer."""

    label: str  # its name, without the prefix that most layers share
    reads: str  # input channels
    writes: str  # output channels
    kernel: str  # 3x3, with the groups; for a layer that is no convolution its kind


class Columns(NamedTuple):
    """Where the columns of text start; ``in → out`` is centred."""

    label: float
    arrow: float
    kernel: float
    note: float
    end: float


@dataclass
class Line:
    """The line of a unit, or of a group of frozen channels."""

    channels: CoupledChannels
    marks: Dict[int, int]  # row -> READS, WRITES or both
    lane: int = 0  # its place, counted from the left
    colour: str = STAYS

    @property
    def span(self) -> Tuple[int, int]:
        """First and last row."""
        return min(self.marks), max(self.marks)


def draw_units(mutator: ChannelMutator, path: Union[str, 'os.PathLike[str]'], title: str = '') -> None:
    """Draw which layers produce and read the channels of each unit: a row for each layer, a line for each unit.

    Layers are in the order of the forward pass, then those that did not run. A layer whose weight is computed has no
    row, since no channels belong to it.

    Args:
        mutator (ChannelMutator): Prepared on a model.
        path (str): The picture, ``.svg``, ``.png`` or another format of matplotlib; it appears whole or not at all.
        title (str): Headline; by default the type of the model.

    Raises:
        ImportError: matplotlib is not installed.
        PictureError: The suffix of the picture names no format.
    """
    picture_format(path)
    axes: Dict[str, List[Axis]] = {call.weight: [] for call in mutator.complexity.graph.calls if call.weight}
    for channels in [*(unit.channels for unit in mutator.units), *mutator.frozen]:
        for member in (*channels.producers, *channels.consumers):
            known = axes.setdefault(member.axis.tensor, [])
            if all(axis is not member.axis for axis in known):
                known.append(member.axis)
    shared, rows = layer_rows(mutator.complexity, axes)
    lines = unit_lines([unit.channels for unit in mutator.units], mutator.frozen, list(axes))
    produced = sum(channels.width for channels in mutator.frozen if channels.producers)
    prunable = sum(unit.width for unit in mutator.units)
    units = '1 unit' if len(mutator.units) == 1 else f'{len(mutator.units)} units'
    summary = (f'{units}; {prunable:,} of {prunable + produced:,} channels may be pruned. '
               'A vertical line is a unit: channels that live and die together.')
    figure = _compose(rows, lines, shared, title or type(mutator.model).__name__, summary)
    save_figure(figure, path)


def layer_rows(complexity: Complexity, axes: Mapping[str, Sequence[Axis]]) -> Tuple[str, List[Row]]:
    """Return the prefix that most names share, and a row for each weight (weight -> its axes), in their order."""
    layers = [weight.rpartition('.')[0] for weight in axes]
    names = [layer if layer and layers.count(layer) == 1 else weight for layer, weight in zip(layers, axes)]
    prefix, labels = _without_prefix(names)
    outputs = {call.weight: call.out_channels for call in complexity.graph.calls}
    rows = []
    for weight, layer, label in zip(axes, layers, labels):
        columns = [axis for axis in axes[weight] if axis.role != 'out']
        depthwise = any(axis.role == 'depthwise' for axis in columns)
        groups = max((axis.groups for axis in axes[weight]), default=1)
        kind = complexity.graph.kinds[layer]
        kernel = 'x'.join(map(str, complexity.shapes[weight][2:])) if kind == 'conv' else kind
        if groups > 1:
            kernel += ' depthwise' if depthwise else f' in {groups} groups'
        # the second axis of a grouped weight has the channels of a single group
        reads = [groups if depthwise else len(axis.ids) * (groups if axis.dim else 1) for axis in columns]
        writes = outputs.get(weight, complexity.shapes[weight][0])
        rows.append(Row(label, ' + '.join(map(str, reads)) or '?', str(writes), kernel))
    return prefix, rows


def _without_prefix(names: Sequence[str]) -> Tuple[str, List[str]]:
    """Return the prefix of the names in the most frequent first module, and all names without it."""
    tops = [name.partition('.')[0] for name in names]
    inside = [name for name, top in zip(names, tops) if top == max(tops, key=tops.count)]
    short = dict(zip(inside, row_labels(inside)))
    labels = [short.get(name, name) for name in names]
    prefix = inside[0][:-len(short[inside[0]])]
    return (prefix, labels) if len({*labels}) == len(names) else ('', list(names))


def unit_lines(units: Sequence[CoupledChannels], frozen: Sequence[CoupledChannels],
               weights: Sequence[str]) -> List[Line]:
    """Return a line for each unit and each group of frozen channels; ``weights`` are those of the rows."""
    row = {weight: number for number, weight in enumerate(weights)}
    lines = []
    for channels in [*units, *frozen]:
        marks: Dict[int, int] = {}
        for members, mark in ((channels.producers, WRITES), (channels.consumers, READS)):
            for member in members:
                number = row[member.axis.tensor]
                marks[number] = marks.get(number, 0) | mark
        lines.append(Line(channels, marks))
    for line, lane in zip(lines, assign_lanes([line.span for line in lines])):
        line.lane = lane
    prunable = [line for line in lines if line.channels.reason is None]
    for line, colour in zip(prunable, assign_colours([line.span for line in prunable],
                                                     [line.lane for line in prunable], len(COLOURS))):
        line.colour = COLOURS[colour]
    return lines


def _notes(lines: Sequence[Line]) -> Dict[int, List[Tuple[str, str]]]:
    """Return row -> pieces of text with their colours: the channels of the units that begin at that row."""
    notes: Dict[int, List[Tuple[str, str]]] = {}
    for line in lines:
        text = f'{line.channels.width}'
        if line.channels.reason is not None:
            text += f' stay: {_brief(line.channels.reason)}'
        notes.setdefault(line.span[0], []).append((text, QUIET if line.channels.reason else line.colour))
    return notes


def _brief(reason: str, length: int = 56) -> str:
    """Return a reason without brackets at its end; if too long, cut at a bracket, comma or word."""
    reason = re.sub(r' \([^()]*\)$', '', reason)
    if len(reason) <= length:
        return reason
    start = reason[:length]
    return next((start.rpartition(mark)[0] for mark in (' (', ',', ' ') if mark in start), start) + ' …'


def _compose(rows: Sequence[Row], lines: Sequence[Line], shared: str, title: str, summary: str) -> Any:
    notes = _notes(lines)
    heading = f'layer of {shared[:-1]}' if shared else 'layer'
    columns = _columns(rows, notes, heading, 1 + max(line.lane for line in lines))
    legend = _legend_starts()
    width = MARGIN + max(columns.end, legend[-1], *(MARGIN + text_width(text, size, bold)
                                                    for text, size, bold in ((title, 15, True), (summary, 9, False))))
    height = HEAD + ROW * len(rows) + MARGIN
    figure = new_figure(width / 72, height / 72)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.text(MARGIN, 24, title, fontsize=15, fontweight='bold', color=INK, va='center')
    axes.text(MARGIN, 43, summary, fontsize=9, color=QUIET, va='center')
    _draw_legend(axes, legend)
    _draw_bands(axes, rows, width)
    _draw_lines(axes, lines, columns.label - 6)
    for x, text, align in ((columns.label, heading, 'left'), (columns.arrow, 'in → out', 'center'),
                           (columns.kernel, 'kernel', 'left'), (columns.note, NOTE, 'left')):
        axes.text(x, HEAD - 8, text, fontsize=SIZE, fontweight='bold', color=QUIET, va='center_baseline', ha=align)
    for number, row in enumerate(rows):
        _draw_row(axes, _y(number), row, notes.get(number, ()), columns)
    return figure


def _columns(rows: Sequence[Row], notes: Dict[int, List[Tuple[str, str]]], heading: str, lanes: int) -> Columns:
    label = MARGIN + lanes * LANE + GAP
    reads = label + _widest([heading, *(row.label for row in rows)]) + GAP
    arrow = reads + _widest([row.reads for row in rows]) + ARROW
    kernel = arrow + ARROW + _widest([row.writes for row in rows]) + GAP
    note = kernel + _widest(['kernel', *(row.kernel for row in rows)]) + GAP
    ends = [sum(text_width(text, SIZE) + ARROW for text, _ in pieces) for pieces in notes.values()]
    return Columns(label, arrow, kernel, note, note + max(_widest([NOTE]), *ends))


def _widest(texts: Sequence[str]) -> float:
    return max(text_width(text, SIZE, bold=True) for text in texts)


def _y(row: float) -> float:
    return HEAD + ROW * (row + 0.5)


def _x(lane: int) -> float:
    return MARGIN + LANE * (lane + 0.5)


def _draw_row(axes: Any, y: float, row: Row, notes: Sequence[Tuple[str, str]], columns: Columns) -> None:
    pieces = [(columns.label, row.label, 'left', INK), (columns.arrow - ARROW, row.reads, 'right', INK),
              (columns.arrow, '→', 'center', QUIET), (columns.arrow + ARROW, row.writes, 'left', INK),
              (columns.kernel, row.kernel, 'left', INK)]
    x = columns.note
    for text, colour in notes:
        pieces.append((x, text, 'left', colour))
        x += text_width(text, SIZE) + ARROW
    for x, text, align, colour in pieces:
        axes.text(x, y, text, fontsize=SIZE, color=colour, va='center_baseline', ha=align)


def _draw_bands(axes: Any, rows: Sequence[Row], width: float) -> None:
    """Shade every other block of layers."""
    blocks = [_block(row.label) for row in rows]
    shaded = False
    for number in range(len(rows)):
        shaded ^= number > 0 and blocks[number] != blocks[number - 1]
        if shaded:
            axes.axhspan(_y(number - 0.5), _y(number + 0.5), color=BAND, linewidth=0, zorder=0)


def _block(label: str) -> List[str]:
    """Return the modules around a layer down to the first with a number as its name, else the outermost only."""
    modules = label.split('.')[:-1]
    return modules[:next((depth for depth, module in enumerate(modules, 1) if module.isdigit()), 1)]


def _draw_lines(axes: Any, lines: Sequence[Line], edge: float) -> None:
    """Draw the lines, and a rule from the leftmost mark of each row to the row's name."""
    for number in {row for line in lines for row in line.marks}:
        left = min(_x(line.lane) for line in lines if number in line.marks)
        axes.plot([left, edge], [_y(number)] * 2, color=RULE, linewidth=0.8, zorder=1)
    for line in lines:
        first, last = line.span
        axes.plot([_x(line.lane)] * 2, [_y(first), _y(last)], color=line.colour, linewidth=2, zorder=2,
                  gid=line.channels.name if line.channels.reason is None else None)
        for number, mark in line.marks.items():
            _draw_mark(axes, _x(line.lane), _y(number), mark, line.colour)


def _draw_mark(axes: Any, x: float, y: float, mark: int, colour: str) -> None:
    if mark == WRITES:
        axes.plot([x], [y], 'o', markersize=6, color=colour, markeredgewidth=0, zorder=3)
        return
    axes.plot([x], [y], 'o', markersize=6.4, color='white', markeredgecolor=colour, markeredgewidth=1.4, zorder=3)
    if mark & WRITES:
        axes.plot([x], [y], 'o', markersize=3.2, color=colour, markeredgewidth=0, zorder=4)


def _legend_starts() -> List[float]:
    """Return where each entry of the legend starts, and where the last entry ends."""
    starts = [MARGIN]
    for _, text in LEGEND:
        starts.append(starts[-1] + ARROW + 4 + text_width(text, SIZE) + GAP)
    return starts


def _draw_legend(axes: Any, starts: Sequence[float], y: float = 62) -> None:
    for x, (mark, text) in zip(starts, LEGEND):
        if mark:
            _draw_mark(axes, x + 4, y, mark, COLOURS[0])
        else:
            axes.plot([x + 4] * 2, [y - 5, y + 5], color=STAYS, linewidth=2)
        axes.text(x + ARROW + 4, y, text, fontsize=SIZE, color=INK, va='center_baseline')
