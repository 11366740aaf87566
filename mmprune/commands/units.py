"""Show every channel unit of a model, and everything that stays with the reason.

mmprune units CONFIG
python tools/pruning/show_units.py CONFIG
python tools/pruning/show_units.py CONFIG --json units.json
python tools/pruning/show_units.py CONFIG --picture units.png
"""
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from ..command_line import add_config_options, add_shape_option, command_parser, emit_json
from ..models.from_config import mutator_from_config
from ..report.figure import picture_format
from ..report.unit_picture import draw_units
from ..units.description import describe
from ..units.reasons import explain


def print_table(found: Dict[str, List[Dict[str, Any]]]) -> None:
    """Print one line a unit, then the frozen channels."""
    units, frozen = found['units'], found['frozen']
    length = max(len(entry['name']) for entry in [*units, *frozen])
    print(f'{len(units)} units may be pruned; channels go in sets of "tied", and acts and macs are what one set costs')
    print(f'  {"unit":<{length}} {"tied":>5} {"acts":>10} {"macs":>13}  producers -> consumers')
    for entry in units:
        costs = f'{entry["tied"]:>5} {entry["channel_acts"]:>10,} {entry["channel_macs"]:>13,}'
        print(f'  {entry["name"]:<{length}} {costs}  '
              f'{_short(entry["producers"])} -> {_short(entry["consumers"])}')
    print(f'{len(frozen)} groups of channels stay')
    for entry in frozen:
        print(f'  {entry["name"]:<{length}}  {entry["reason"]}')


def _short(layers: List[str]) -> str:
    more = f' +{len(layers) - 2}' if len(layers) > 2 else ''
    return ', '.join(layers[:2]) + more


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = command_parser(__doc__, prog)
    parser.add_argument('config', help='pretrain, prune, finetune or deploy config')
    add_shape_option(parser)
    parser.add_argument('--mutate-linear', action='store_true', help='prune what linear layers read and produce')
    parser.add_argument('--json', help='write everything to a file, or - for stdout (nothing else then)')
    parser.add_argument('--picture', help='draw which layers produce and read each unit, .svg or .png')
    add_config_options(parser)
    args = parser.parse_args(argv)
    if args.picture:
        picture_format(args.picture)  # a wrong suffix shows before the model is built
    mutator, _ = mutator_from_config(args.config, args.input_shape, args.cfg_options, args.mutate_linear,
                                     may_be_whole=True)
    found = describe(mutator)
    if args.json:
        emit_json(found, args.json)
    if args.picture:
        draw_units(mutator, args.picture, title=Path(args.config.rpartition('::')[2]).stem)
    if args.json != '-':
        print_table(found)
        print(explain(mutator))
