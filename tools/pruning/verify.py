"""Prove that cutting is right: prune random channels of every unit, compare masked dense and cut model.

python tools/pruning/verify.py CONFIG
python tools/pruning/verify.py CONFIG --ratio 0.5 --seeds 3 --json -

The comparison runs in float64, in train and eval mode, with random norm statistics, on two random images.
"""
import argparse
import sys

from mmprune.check import verify
from mmprune.command_line import add_config_options, emit_json, run
from mmprune.from_config import mutator_from_config

LIMIT = 1e-10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='pretrain, prune, finetune or deploy config')
    parser.add_argument('--ratio', type=float, default=0.5, help='share of every unit that is pruned (0.5)')
    parser.add_argument('--seeds', type=int, default=3, help='number of random choices (3)')
    parser.add_argument('--input-shape', type=int, nargs='+', help='batch first, default: the config\'s or 1 3 224 224')
    parser.add_argument('--json', help='write the result to a file, or - for stdout (nothing else then)')
    add_config_options(parser)
    args = parser.parse_args()
    if not 0 < args.ratio < 1:
        parser.error(f'--ratio is {args.ratio}; it must lie between 0 and 1')
    if args.seeds < 1:
        parser.error(f'--seeds is {args.seeds}; it must be 1 or more')
    mutator, _ = mutator_from_config(args.config, args.input_shape, args.cfg_options)
    batch, *rest = mutator.demo_input.input_shape
    mutator.demo_input.input_shape = (max(2, batch), *rest)  # batch norm trains on more than one value
    result = verify(mutator, args.ratio, args.seeds)
    if args.json:
        emit_json(result, args.json)
    if args.json != '-':
        for seed, difference in enumerate(result['per_seed']):
            print(f'seed {seed}: {difference:.2e}')
        print(f'{result["units"]} units, largest relative difference {result["max_relative_difference"]:.2e} '
              f'(limit {LIMIT:.0e})')
    if not result['max_relative_difference'] < LIMIT:
        sys.exit(1)


if __name__ == '__main__':
    run(main)
