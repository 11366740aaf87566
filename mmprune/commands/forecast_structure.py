"""Write the structure that a prune config will leave, before anything is trained.

mmprune forecast-structure PRUNE_CONFIG --out fix_subnet.json
python tools/pruning/forecast_structure.py PRUNE_CONFIG --out fix_subnet.json

For targets that take a share of each unit; where channels of all units compete, only the run can tell. The deploy
configs of configs/mmcls/{fpgm,thinet,apoz,filter_norm} name files made by this.
"""
from typing import Optional, Sequence

from mmengine.registry import init_default_scope

from ..command_line import add_config_options, command_parser
from ..config import plain
from ..engine.forecast import forecast, schedule_of
from ..models.from_config import check_model, merge, read_config
from ..registry import MODELS
from ..units.structure import format_structure, write_structure


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = command_parser(__doc__, prog)
    parser.add_argument('config', help='prune config with a schedule')
    parser.add_argument('--out', help='the json file; without it, the structure is printed only')
    add_config_options(parser)
    args = parser.parse_args(argv)
    cfg = read_config(args.config)
    merge(cfg, args.cfg_options)
    check_model(cfg, args.config)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    schedule = schedule_of(cfg)  # before a large model is built
    model = plain(cfg.model)
    model['architecture'].pop('init_cfg', None)
    algorithm = MODELS.build(model)
    structure = forecast(schedule, algorithm)
    print(format_structure(structure, {unit.name: unit.width for unit in algorithm.mutator.units}))
    if args.out:
        write_structure(structure, args.out)
