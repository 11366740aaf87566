"""What may never be pruned, and why: the units of the dense model, traced once and kept beside the report."""
from typing import Any, Dict, List, Mapping, Tuple

from ...arguments import UserError
from ...files import write_json
from ...models.from_config import ERRORS, mutator_from_config
from ...units.description import describe
from ...units.reasons import explain, stay_shares
from . import number as text
from .content import Bar, Bars, Block, Code, Paragraph, Section, Table
from .road import Road

#: File in the folder.
KEPT = 'report_units.json'
#: What it holds besides what was asked.
PARTS = ('units', 'frozen', 'explained', 'shares')
#: What a model and its trace may raise where a package is missing or a config is wrong.
FAILURES = (*ERRORS, ImportError, RuntimeError, OSError)


def units_of(road: Road) -> Tuple[Dict[str, Any], str]:
    """Return the units of the dense model, kept ones or traced now, and what went wrong ('' if nothing).

    The result is kept in the folder. It holds ``config``, ``units`` and ``frozen`` (see
    :func:`~mmprune.units.description.describe`), ``explained`` (a line) and ``shares`` (category -> share of the
    multiply-adds that stays).
    """
    asked = dict(config=road.told(road.config), input_shape=list(road.plan.input_shape))
    kept = road.kept(KEPT)
    if {*kept} == {*asked, *PARTS} and all(kept[key] == asked[key] for key in asked):
        return kept, ''
    try:
        mutator, _ = mutator_from_config(road.config, road.plan.input_shape or None, may_be_whole=True)
    except FAILURES as error:
        return {}, road.told(str(error) if isinstance(error, UserError) else f'{type(error).__name__}: {error}')
    found = dict(asked, **describe(mutator), explained=explain(mutator), shares=stay_shares(mutator))
    write_json(found, road.folder / KEPT)
    return found, ''


def stays_section(units: Mapping[str, Any], problem: str) -> Section:
    """Return what stays, by reason and channel by channel.

    Args:
        units (dict): Of :func:`units_of`.
        problem (str): What went wrong.
    """
    section = Section('stays', 'What cannot be pruned, and why')
    if not units:
        section.blocks.append(Paragraph(['The dense model could not be built here, so its units are not known: ',
                                         Code(problem)], missing=True))
        return section
    section.blocks += [Paragraph(f'{len(units["units"])} units may be pruned. {units["explained"]}.'),
                       *_shares(units), *_frozen(units)]
    return section


def _shares(units: Mapping[str, Any]) -> List[Block]:
    rows = [Bar(name, [('stays', value)], text.share(value)) for name, value in units['shares'].items()]
    if not rows:
        return []
    return [Paragraph('Share of the multiply-adds of the dense network that stays even if every unit is cut to a '
                      'single channel, by what keeps it:'),
            Bars(rows, {}, ('what keeps it', 'share that stays'), full=1.0)]


def _frozen(units: Mapping[str, Any]) -> List[Block]:
    rows = [[Code(one['name']), str(one['channels']), one['reason']] for one in units['frozen']]
    if not rows:
        return [Paragraph('Nothing stays but one channel of each unit.')]
    return [Paragraph('Channels that are never removed:'),
            Table(['channels', 'how many', 'why they stay'], rows, left=(0, 2), shown=15)]
