"""A picture of a structure before and after pruning."""
import os
from typing import Any, Dict, Mapping, Optional, Sequence, Union

import numpy as np

from ..arguments import UserError
from .figure import INK, QUIET, UNIT_NAME, new_figure, row_labels, save_figure

BEFORE, AFTER = '#dfe3e8', '#2563ab'


def original_widths(structure: Mapping[str, int]) -> Dict[str, int]:
    """Return unit name -> channels of the dense model, read off the names of a ``fix_subnet.json``.

    Raises:
        UserError: A name is not that of a unit.
    """
    widths = {}
    for name in structure:
        match = UNIT_NAME.fullmatch(name)
        if match is None:
            raise UserError(f'{name!r} is not the name of a unit, such as "backbone.conv1_(0, 64)_64"')
        widths[name] = int(match['channels'])
    return widths


def draw_structure(structure: Mapping[str, int], path: Union[str, 'os.PathLike[str]'],
                   widths: Optional[Mapping[str, int]] = None,
                   title: str = 'Channels before and after pruning') -> None:
    """Draw the structure before and after pruning: channels and the share that stays, a row for each unit.

    Args:
        structure (dict[str, int]): Unit name -> channels that stay, as in ``fix_subnet.json``.
        path (str): The picture, ``.png`` or another format of matplotlib; it appears whole or not at all.
        widths (dict[str, int], optional): Unit name -> channels of the dense model; by default read off the names.
        title (str): Headline.

    Raises:
        ImportError: matplotlib is not installed.
        UserError: The structure is empty, a name is not that of a unit and ``widths`` is not given, or the suffix
            names no format (:class:`PictureError`).
    """
    if not structure:
        raise UserError('the structure has no unit, so there is nothing to draw')
    widths = dict(widths) if widths is not None else original_widths(structure)
    before = [widths[name] for name in structure]
    after = [len(value) if isinstance(value, list) else value for value in structure.values()]
    save_figure(_compose(row_labels(list(structure)), before, after, title), path)


def structure_image(structure: Mapping[str, int], widths: Mapping[str, int], title: str) -> np.ndarray:
    """Return the picture of :func:`draw_structure` as ``ndarray[height, width, 3]`` of uint8, for visualizers.

    Raises:
        ImportError: matplotlib is not installed.
    """
    before = [widths[name] for name in structure]
    figure = _compose(row_labels(list(structure)), before, list(structure.values()), title)
    figure.canvas.draw()
    pixels: np.ndarray = np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()
    return pixels


def _compose(labels: Sequence[str], before: Sequence[int], after: Sequence[int], title: str) -> Any:
    height = 2.0 + 0.27 * len(labels)
    figure = new_figure(10.5, height)
    channels, share = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    left = 0.035 + 0.0066 * max(map(len, labels))  # the longest label fits
    figure.subplots_adjust(left=min(left, 0.45), right=0.98, top=1 - 1.2 / height, bottom=0.35 / height, wspace=0.04)
    figure.text(0.02, 1 - 0.36 / height, title, fontsize=15, fontweight='bold', color=INK, va='center')
    figure.text(0.02, 1 - 0.66 / height,
                f'One row per unit: channels that live and die together, named after their first layer, from input to '
                f'output. {sum(after):,} of {sum(before):,} stay.', fontsize=9, color=QUIET, va='center')
    _draw_rows(channels, before, after, [f'{a} of {b}' for a, b in zip(after, before)], max(*before, *after))
    shares = [100 * a / b for a, b in zip(after, before)]
    _draw_rows(share, [100] * len(after), shares, [f'{value:.0f} %' for value in shares], max(100, *shares))
    channels.set_yticks(range(len(labels)), labels, fontsize=8.5, color=INK)
    for axes, heading in ((channels, 'Channels'), (share, 'Share that stays (%)')):
        axes.set_title(heading, loc='left', fontsize=10, fontweight='bold', color=INK, pad=4)
    figure.legend(channels.containers[:2], ['dense model', 'stays after pruning'], loc='upper right', ncols=2,
                  frameon=False, fontsize=9, bbox_to_anchor=(0.98, 1 - 0.2 / height), labelcolor=INK)
    return figure


def _draw_rows(axes: Any, before: Sequence[float], after: Sequence[float], notes: Sequence[str], top: float) -> None:
    """Draw pairs of bars, the first row on top, and a note at the end of each."""
    rows = range(len(before))
    axes.barh(rows, before, height=0.72, color=BEFORE)
    axes.barh(rows, after, height=0.72, color=AFTER)
    for row, end, note in zip(rows, map(max, before, after), notes):
        axes.text(end + 0.015 * top, row, note, va='center', fontsize=8, color=INK)
    axes.set_xlim(0, 1.2 * top)
    axes.set_ylim(len(before) - 0.4, -0.6)
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= top])
    axes.tick_params(axis='x', labelsize=8, colors=QUIET, length=0)
    axes.tick_params(axis='y', length=0)
    axes.grid(axis='x', color='#eef0f3', linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
