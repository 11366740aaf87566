"""Prove that cutting is right: prune random channels of every unit, compare masked dense and cut model, count its cost.

mmprune verify CONFIG
python tools/pruning/verify.py CONFIG
python tools/pruning/verify.py CONFIG --ratio 0.5 --seeds 3 --json -

The comparison runs in float64, in train and eval mode, with random norm statistics, on two random images. What fails
is named at the end, and the status is 1.
"""
import sys
from typing import Any, Dict, Optional, Sequence

from ..command_line import add_config_options, add_shape_option, command_parser, emit_json, ratio, whole
from ..models.from_config import mutator_from_config
from ..report.proof import Proof, prove

LIMIT = 1e-10


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = command_parser(__doc__, prog)
    parser.add_argument('config', help='pretrain, prune, finetune or deploy config')
    parser.add_argument('--ratio', type=ratio, default=0.5, help='share of every unit that is pruned (0.5)')
    parser.add_argument('--seeds', type=whole(1, 1000), default=3, help='number of random choices (3)')
    add_shape_option(parser)
    parser.add_argument('--mutate-linear', action='store_true', help='prune what linear layers read and produce')
    parser.add_argument('--json', help='write the result to a file, or - for stdout (nothing else then)')
    add_config_options(parser)
    args = parser.parse_args(argv)
    mutator, _ = mutator_from_config(args.config, args.input_shape, args.cfg_options, args.mutate_linear)
    proof = prove(mutator, args.ratio, args.seeds)
    if args.json:
        emit_json(as_dict(proof), args.json)
    if args.json != '-':
        show(proof)
    if not proof.holds(LIMIT):
        sys.exit(1)


def as_dict(proof: Proof) -> Dict[str, Any]:
    """Return a proof as plain values."""
    return dict(max_relative_difference=max(proof.differences), per_seed=proof.differences, units=proof.units,
                same_shapes=proof.same_shapes, backward=proof.backward, macs=proof.macs[0], counted_macs=proof.macs[1],
                prunable_share=proof.share, unaccounted=proof.unaccounted, untrained=proof.untrained,
                failed=proof.failures(LIMIT))


def show(proof: Proof) -> None:
    """Print a proof, line by line."""
    for seed, difference in enumerate(proof.differences):
        print(f'seed {seed}: {difference:.2e}')
    print(f'{proof.units} units, largest relative difference {max(proof.differences):.2e} (limit {LIMIT:.0e})')
    print(f'output shapes {"unchanged" if proof.same_shapes else "CHANGED"}; '
          f'backward pass {"runs" if proof.backward else "FAILS"}')
    print(f'MACs of the last cut model: {proof.macs[0]:,} by arithmetic, {proof.macs[1]:,} counted while it ran')
    print(f'{proof.share:.1%} of the MACs can go')
    if proof.untrained:
        print(f'eval mode only: in train mode the dense model raises {proof.untrained}')
    for line in proof.failures(LIMIT):
        print(f'FAILED: {line}')
