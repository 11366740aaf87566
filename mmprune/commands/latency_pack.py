"""Write networks for another device to measure, with a script that needs onnxruntime and numpy only.

mmprune latency-pack CONFIG --out pack
mmprune latency pack CONFIG --out pack --structure fix_subnet.json
python tools/pruning/latency_pack.py CONFIG --out pack

Copy the folder to the device and run `python measure.py --threads 2` there; `measured.json` comes back. Of it
`mmprune latency CONFIG --measured measured.json --out device.json` makes the device's latency table, which a target in
time reads by `runtime=dict(type='Device', table='device.json')`. With a structure the pack has the dense and the pruned
network only; what comes back then corrects the table by the same command.
"""
from typing import Optional, Sequence

from ..arguments import LARGEST_BLOCK
from ..command_line import add_config_options, add_shape_option, bar_on_stderr, command_parser, whole
from ..latency.meter import example_shape
from ..latency.pack import write_pack
from ..latency.profiled import NETWORKS
from ..models.from_config import mutator_from_config
from ..units.structure import read_structure

#: The block of most runtimes on most CPUs.
BLOCK = 16


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = command_parser(__doc__, prog)
    parser.add_argument('config', help='pretrain, prune, finetune or deploy config')
    parser.add_argument('--out', required=True, help='folder to write')
    parser.add_argument('--structure', help='json file of a pruned structure, to be measured beside the dense network')
    parser.add_argument('--networks', type=whole(8, 1000), default=NETWORKS, help='networks of a table (%(default)s)')
    parser.add_argument('--block', type=whole(1, LARGEST_BLOCK), default=BLOCK,
                        help='channels that widths are a multiple of (%(default)s)')
    add_shape_option(parser)
    add_config_options(parser)
    args = parser.parse_args(argv)
    structure = read_structure(args.structure) if args.structure else None
    mutator = mutator_from_config(args.config, args.input_shape, args.cfg_options)[0]
    written = write_pack(mutator, args.out, example_shape(mutator, args.input_shape), args.block, args.networks,
                         structure, bar_on_stderr())
    print(f'wrote {len(written)} networks and measure.py to {args.out}: copy the folder to the device and run there\n'
          f'  python measure.py --threads 1')
