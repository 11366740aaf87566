"""Print what a dense or pruned model costs: multiply-adds, parameters and activations.

mmprune cost CONFIG
python tools/pruning/structure_cost.py CONFIG
python tools/pruning/structure_cost.py CONFIG FIX_SUBNET.json --json -

CONFIG is a pretrain, prune, finetune or deploy config. FLOPs are multiply-adds of conv and linear layers for the
config's input shape; parameters count once; activations are output elements of conv and linear layers.
"""
from typing import Optional, Sequence

from ..command_line import add_config_options, add_shape_option, command_parser, emit_json
from ..models.from_config import mutator_from_config
from ..units.complexity import PRODUCTS
from ..units.structure import blamed_on, read_structure


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = command_parser(__doc__, prog)
    parser.add_argument('config', help='pretrain, prune, finetune or deploy config')
    parser.add_argument('fix_subnet', nargs='?', help='json file of a structure; a deploy config names its own')
    add_shape_option(parser)
    parser.add_argument('--json', help='write macs, params and acts to a file, or - for stdout (nothing else then)')
    add_config_options(parser)
    args = parser.parse_args(argv)
    given = read_structure(args.fix_subnet) if args.fix_subnet else None
    mutator, structure = mutator_from_config(args.config, args.input_shape, args.cfg_options)
    dense, structure = mutator.cost, given if given is not None else structure
    if structure is not None:
        with blamed_on(args.fix_subnet):
            mutator.apply_structure(structure)
    cost = mutator.cost
    if args.json:
        emit_json(cost, args.json)
    if args.json != '-':
        shape = ' x '.join(map(str, mutator.demo_input.input_shape))
        print(f'{type(mutator.model).__name__}, input {shape}')
        rows = {'macs': 'multiply-adds', PRODUCTS: 'of attention', 'params': 'parameters', 'acts': 'activations'}
        for key, name in [(key, name) for key, name in rows.items() if key in cost]:
            share = '' if structure is None else f'  {cost[key] / dense[key]:7.2%} of {dense[key]:,}'
            print(f'  {name:<14}{cost[key]:>18,}{share}')
