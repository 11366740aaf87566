"""Write the structure that a prune config will leave, before anything is trained.

python tools/pruning/forecast_structure.py PRUNE_CONFIG --out fix_subnet.json

For targets that take a share of each unit; where channels of all units compete, only the run can tell. The deploy
configs of configs/mmcls/{fpgm,thinet,apoz,filter_norm} name files made by this.
"""
import argparse

from mmengine.registry import init_default_scope

from mmprune.command_line import add_config_options, run
from mmprune.config import plain
from mmprune.engine.forecast import forecast, schedule_of
from mmprune.models.from_config import read_config
from mmprune.registry import MODELS
from mmprune.units.structure import format_structure, write_structure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='prune config with a schedule')
    parser.add_argument('--out', help='the json file; without it, the structure is printed only')
    add_config_options(parser)
    args = parser.parse_args()
    cfg = read_config(args.config)
    cfg.merge_from_dict(args.cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    schedule = schedule_of(cfg)  # before a large model is built
    model = plain(cfg.model)
    model['architecture'].pop('init_cfg', None)
    algorithm = MODELS.build(model)
    structure = forecast(schedule, algorithm)
    print(format_structure(structure, {unit.name: unit.width for unit in algorithm.mutator.units}))
    if args.out:
        write_structure(structure, args.out)


if __name__ == '__main__':
    run(main)
