"""Write the Network Slimming schema of a config's model: which norm decides about which layer, to look at and to edit.

mmprune slimming-schema CONFIG --out schema.json
python tools/pruning/write_schema.py CONFIG --out schema.json
python tools/pruning/write_schema.py CONFIG --prefix backbone. --out schema.json

Use it by criterion=dict(type='BNScale', schema='schema.json').
"""
from typing import Optional, Sequence

from ..command_line import add_config_options, add_shape_option, command_parser
from ..criteria.slimming_schema import make_schema, write_schema
from ..models.from_config import mutator_from_config


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = command_parser(__doc__, prog)
    parser.add_argument('config', help='config of a model, or of a prune run')
    parser.add_argument('--out', default='schema.json', help='the json file')
    parser.add_argument('--prefix', default='', help='only layers whose names begin with this, which is cut off')
    add_shape_option(parser, '--shape')
    add_config_options(parser)
    args = parser.parse_args(argv)
    mutator, _ = mutator_from_config(args.config, args.shape, args.cfg_options)
    schema = make_schema(mutator, args.prefix)
    write_schema(schema, args.out)
    print(f'{args.out}: {len(schema["modules"])} modules, {len(schema["shortcuts"])} shortcuts')
