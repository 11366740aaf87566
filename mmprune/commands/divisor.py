"""Find the divisor that makes a pruned model fastest in onnxruntime, or in another runtime.

mmprune divisor DEPLOY_CONFIG none
python tools/find_divisor.py DEPLOY_CONFIG none
python tools/find_divisor.py DEPLOY_CONFIG CKPT --divisors 1 4 8 16 --threads 4 --json divisors.json
python tools/find_divisor.py DEPLOY_CONFIG none --runtime OpenVINO --require-faster

Each unit is padded with zero channels to a multiple of the divisor, which changes no output. The dense model and all
padded ones are exported, compared with PyTorch, and timed in turns, one session alive at a time; the speed-up is the
median over these turns, so that other work on the machine hits both alike. FLOPs are multiply-adds.
"""
import platform
from typing import Optional, Sequence

import torch

from ..arguments import LARGEST_BLOCK
from ..command_line import (
    add_config_options,
    add_require_faster,
    add_shape_option,
    command_parser,
    emit_json,
    rounds,
    threads,
    whole,
)
from ..deploy.beside_dense import require_faster
from ..deploy.divisor_search import DIVISORS, format_results, search
from ..deploy.load import RANDOM
from ..models.checkpoint import check_exists
from ..models.from_config import check_model, merge, read_config
from ..registry import RUNTIMES, build


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    RUNTIMES.import_from_location()
    parser = command_parser(__doc__, prog)
    parser.add_argument('config', help='deploy config')
    parser.add_argument('checkpoint', help='checkpoint of the pruned model, file or URL; "none" for random weights: '
                                           'latency does not depend on them')
    parser.add_argument('--divisors', type=whole(1, LARGEST_BLOCK), nargs='+', default=list(DIVISORS),
                        help='what to try')
    add_shape_option(parser)
    parser.add_argument('--threads', type=threads, default=1, help='threads of the runtime (1)')
    parser.add_argument('--runtime', choices=list(RUNTIMES.module_dict), default='OnnxRuntime',
                        help='what runs the models (default: %(default)s)')
    parser.add_argument('--rounds', type=rounds, default=100, help='timed runs of each model (100)')
    add_require_faster(parser)
    parser.add_argument('--json', help='write the result to a file, or - for stdout (nothing else then)')
    add_config_options(parser)
    args = parser.parse_args(argv)
    if args.checkpoint != RANDOM:
        check_exists(args.checkpoint)
    torch.set_num_threads(args.threads)
    cfg = read_config(args.config)
    merge(cfg, args.cfg_options)
    check_model(cfg, args.config)
    runtime = build(RUNTIMES, dict(type=args.runtime, threads=args.threads))
    found = search(cfg, args.checkpoint, args.divisors, args.input_shape, runtime, args.rounds)
    if args.json:
        emit_json(dict(config=args.config, machine=platform.machine(), **found.as_json()), args.json)
    if args.json != '-':
        print(format_results(found))
    if args.require_faster:
        require_faster(found.fastest.speedup, f'divisor {found.fastest.divisor}')
