"""A picture of where the time of a network goes: milliseconds by layer, dense and pruned."""
import os
from typing import Mapping, Union

from ..arguments import UserError
from ..latency.node_law import layer_name
from .figure import INK, QUIET, new_figure, save_figure

DENSE, PRUNED = '#c3cad3', '#2563ab'
#: Layers that get a bar of their own.
MOST = 40


def draw_latency(dense: Mapping[str, float], pruned: Mapping[str, float], path: Union[str, 'os.PathLike[str]'],
                 title: str, label: str) -> None:
    """Draw the layers that take longest, one above the other in the order of the network.

    Args:
        dense (dict[str, float]): Layer -> milliseconds in the dense network.
        pruned (dict[str, float]): Layer -> milliseconds in the pruned one.
        path (str): The picture; it appears whole or not at all.
        title (str): Headline.
        label (str): What the pruned network is.

    Raises:
        MissingPackageError: matplotlib is not installed.
        UserError: There is no layer, or the suffix of the file names no format.
    """
    if not dense:
        raise UserError('the table has no layer, so there is nothing to draw')
    longest = sorted(dense, key=lambda name: -dense[name])[:MOST]
    names = [name for name in dense if name in longest]
    figure = new_figure(11, 1.4 + 0.24 * len(names))
    axes = figure.add_axes((0.42, 0.5 / (1.4 + 0.24 * len(names)), 0.55, 1 - 1.2 / (1.4 + 0.24 * len(names))))
    places = range(len(names))
    axes.barh(places, [dense[name] for name in names], height=0.8, color=DENSE, label='dense')
    axes.barh(places, [pruned.get(name, 0.0) for name in names], height=0.4, color=PRUNED, label=label)
    axes.set_yticks(list(places), [layer_name(name.strip('/'), 58) for name in names], fontsize=7, color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis='x', labelsize=8, colors=QUIET)
    axes.set_xlabel('milliseconds', fontsize=8, color=QUIET)
    axes.grid(axis='x', color='#e6e9ed', linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ('top', 'right', 'left'):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=8, loc='lower right', frameon=False)
    rest = sum(dense.values()) - sum(dense[name] for name in names)
    more = f'; {len(dense) - len(names)} others take {rest:.2f} ms' if len(dense) > len(names) else ''
    figure.text(0.02, 1 - 0.3 / (1.4 + 0.24 * len(names)), title + more, fontsize=10, color=INK, va='center')
    save_figure(figure, path)
