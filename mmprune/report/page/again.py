"""What it takes to do it again: commands, dates, versions, options, files; and whether the result was checked."""
import shlex
from typing import Any, List, Mapping

from ..stage_record import STAGES
from . import number as text
from .content import Block, Code, Listing, Paragraph, Section, Strong, Table, Text
from .number import number
from .road import WHAT, Road

#: Keys of results that other sections show.
SHOWN = {'metrics', 'structure', 'reached', 'cost', 'log', 'epochs', 'difference', 'times', 'format',
         'left_in_float', 'float_metrics', 'checkpoint', 'config', 'file', 'dense_file', 'pruned_file'}
FILES = ('checkpoint', 'structure', 'config', 'file', 'dense_file', 'pruned_file', 'log')
#: Largest relative difference to PyTorch that float arithmetic explains.
TOLERANCE = 1e-4


def check_section(road: Road) -> Section:
    """Return whether the exported file computes what PyTorch computes, and what INT8 left in float."""
    section, difference = Section('checks', 'Is the exported file right?'), road.number('deploy', 'difference')
    if difference is None:
        section.blocks.append(Paragraph('The exported file has not been compared with PyTorch yet.', missing=True))
    else:
        verdict = 'that is rounding' if difference <= TOLERANCE else 'that is more than rounding explains'
        section.blocks.append(Paragraph(['Largest relative difference between the outputs of the exported file and '
                                         'those of PyTorch: ', Strong(f'{difference:.1e}'), f'; {verdict}.']))
    if 'int8' in road.records:
        kind, names = road.get('int8', 'format'), road.get('int8', 'left_in_float') or []
        layers = '1 layer' if len(names) == 1 else f'{len(names) or "no"} layers'
        section.blocks.append(Paragraph(f'The INT8 file {f"has the format {kind} and " if kind else ""}computes '
                                        f'{layers} in float{":" if names else "."}'))
        if names:
            section.blocks.append(Table(['layer'], [[Code(name)] for name in names], shown=10))
    return section


def again_section(road: Road) -> Section:
    """Return commands, dates and versions."""
    section = Section('again', 'To do it again')
    section.blocks += [*_stages(road), *_commands(road), *_files(road), *_options(road), *_also(road)]
    return section


def _stages(road: Road) -> List[Block]:
    rows: List[List[Text]] = []
    for stage in STAGES:
        record = road.records.get(stage)
        rows.append([stage, *((text.duration(record.seconds), _date(record.finished)) if record else
                              (text.NONE, 'not done')), WHAT[stage]])
    whole = sum(record.seconds for record in road.records.values())
    rows.append(['all', text.duration(whole), '', ''])
    return [Table(['stage', 'took', 'finished', 'what it does'], rows, left=(0, 2, 3))]


def _date(finished: str) -> str:
    """Return a date as people write it."""
    return finished.replace('T', ' ', 1).replace('+00:00', ' UTC')


def _commands(road: Road) -> List[Block]:
    lines = [line for stage, record in road.records.items()
             for line in (f'# {stage}', *(shlex.join(map(str, command)) for command in record.commands))]
    return [Paragraph('What was typed, stage by stage:'), Listing(lines)] if lines else []


def _files(road: Road) -> List[Block]:
    rows: List[List[Text]] = [['dense', 'config', Code(road.plan.config)],
                              ['dense', 'checkpoint', Code(road.plan.checkpoint)]]
    rows += [[stage, key, Code(value)] for stage, record in road.records.items()
             for key in FILES for value in [record.result.get(key)] if isinstance(value, str)]
    return [Paragraph('Files, relative to the folder of this report:'),
            Table(['stage', 'what', 'file'], rows, left=(0, 1, 2))]


def _options(road: Road) -> List[Block]:
    plan = road.plan
    rows: List[List[Text]] = [['machine', plan.machine], ['input', ' × '.join(map(str, plan.input_shape))]]
    rows += [[name, version] for name, version in plan.versions.items()]
    rows += [[['option ', Code(name)], Code(value)] for option in plan.options
             for name, value in _flat(option, plan.options[option])]
    return [Paragraph('Machine, versions and options:'), Table(['what', 'value'], rows, left=(0, 1))]


def _also(road: Road) -> List[Block]:
    """Return what the records hold that no other section shows."""
    rows: List[List[Text]] = [[stage, Code(name), Code(value)] for stage, record in road.records.items()
                              for key in record.result
                              if key not in SHOWN and (stage, key) != ('dense', 'images')
                              for name, value in _flat(key, record.result[key])]
    return [Paragraph('Also recorded:'), Table(['stage', 'what', 'value'], rows, left=(0, 1, 2))] if rows else []


def _flat(name: str, value: Any) -> List[List[str]]:
    if isinstance(value, Mapping) and value:
        return [pair for key, item in value.items() for pair in _flat(f'{name}.{key}', item)]
    return [[name, _plain(value)]]


def _plain(value: Any) -> str:
    """Return a value as a person writes it."""
    if isinstance(value, (list, tuple)):
        return ' '.join(map(_plain, value))
    if value is None:
        return text.NONE
    return f'{value:g}' if number(value) is not None and isinstance(value, float) else str(value)
