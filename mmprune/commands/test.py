"""Test a checkpoint: of the dense model, of a prune run or of a finetuned model, with the config that belongs to it.

mmprune test CONFIG CKPT
python tools/test.py CONFIG CKPT
bash tools/dist_test.sh CONFIG CKPT 8
"""
from typing import Any, Dict, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.runner import Runner

from ..command_line import command_parser, emit_json
from ..engine.distributed import process_group
from ..engine.runner import unwrapped
from ..engine.training_config import add_runner_options, data_named, runner_config
from ..models.checkpoint import check_exists, load_weights
from ..models.pruning_algorithm import PruningAlgorithm


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = command_parser(__doc__, prog)
    parser.add_argument('config', help='config of the model')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('--json', help='write the metrics to a file, or - for stdout')
    add_runner_options(parser)
    args = parser.parse_args(argv)
    check_exists(args.checkpoint)
    cfg = runner_config(args)
    cfg.load_from, cfg.resume = None, False
    with process_group(args.launcher), data_named(cfg):
        metrics, rank = _test(cfg, args.checkpoint)
    if args.json and rank == 0:
        emit_json({key: float(value) for key, value in metrics.items()}, args.json)


def _test(cfg: Config, checkpoint: str) -> Tuple[Dict[str, Any], int]:
    """Return the metrics and the rank of this process."""
    runner = Runner.from_cfg(cfg)
    model = unwrapped(runner)
    if isinstance(model, PruningAlgorithm):
        model.load_pruned(checkpoint, 'checkpoint')
    else:
        load_weights(model, checkpoint, 'checkpoint')
    return runner.test(), runner.rank
