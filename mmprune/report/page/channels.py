"""The structure: how wide every unit was, and how wide it is now."""
from typing import Dict, List, Mapping

from ...arguments import UserError
from ...units.structure import read_structure
from ..figure import row_labels
from ..structure_picture import original_widths
from . import number as text
from .content import Bar, Bars, Block, Paragraph, Section
from .number import number
from .road import Road

#: Kind of a part of a bar -> its name in the legend.
KINDS = {'kept': 'channels that stay', 'gone': 'channels that went'}


def channels_section(road: Road) -> Section:
    """Return a row for every unit: dense and kept channels."""
    return Section('structure', 'The structure, before and after', _blocks(road))


def _blocks(road: Road) -> List[Block]:
    path = road.path('prune', 'structure')
    if path is None:
        return [Paragraph('Pruning is not done yet, so there is no structure.' if 'prune' not in road.records else
                          'The record of pruning names no structure.', missing=True)]
    try:
        structure = {name: int(value) for name, value in read_structure(path).items() if number(value) is not None}
        widths = original_widths(structure)
    except UserError as error:
        return [Paragraph(road.told(f'The structure cannot be shown: {error}'), missing=True)]
    if not structure:
        return [Paragraph('The structure has no unit.', missing=True)]
    return structure_blocks(structure, widths)


def structure_blocks(structure: Mapping[str, int], widths: Mapping[str, int]) -> List[Block]:
    """Return what is said and drawn of a structure.

    Args:
        structure (dict[str, int]): Unit name -> channels that stay.
        widths (dict[str, int]): Unit name -> channels of the dense model.
    """
    before, after = sum(widths.values()), sum(structure.values())
    removed = [name for name, width in structure.items() if not width]
    intro = (f'Of {before:,} channels in {len(structure)} units {after:,} stay ({text.share(after / max(before, 1))}). '
             'A unit is channels that live and die together, since layers add or pass them on; it has the name of its '
             'first layer, and stands in the order of the network.')
    if removed:
        intro += f' Of {len(removed)} units nothing stays: their blocks are gone.'
    rows = [Bar(label, _parts(structure[name], widths[name]),
                f'{structure[name]} of {widths[name]} ({text.share(structure[name] / widths[name])})', name)
            for name, label in _labelled(structure).items()]
    return [Paragraph(intro), Bars(rows, KINDS, ('unit', 'channels that stay'))]


def _labelled(structure: Mapping[str, int]) -> Dict[str, str]:
    names = list(structure)
    return dict(zip(names, row_labels(names)))


def _parts(kept: int, dense: int) -> List:
    return [('kept', kept), ('gone', max(0, dense - kept))]
