"""Test a checkpoint: of the dense model, of a prune run or of a finetuned model, with the config that belongs to it.

python tools/test.py CONFIG CKPT
bash tools/dist_test.sh CONFIG CKPT 8
"""
import argparse

from mmengine.runner import Runner

from mmprune.command_line import add_runner_options, emit_json, run, runner_config
from mmprune.engine.distributed import start_without_cuda
from mmprune.engine.runner import unwrapped
from mmprune.models.checkpoint import load_weights
from mmprune.models.pruning_algorithm import PruningAlgorithm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the model')
    parser.add_argument('checkpoint', help='checkpoint file or URL')
    parser.add_argument('--json', help='write the metrics to a file, or - for stdout')
    add_runner_options(parser)
    args = parser.parse_args()
    cfg = runner_config(args)
    cfg.load_from, cfg.resume = None, False
    start_without_cuda(args.launcher)
    runner = Runner.from_cfg(cfg)
    model = unwrapped(runner)
    if isinstance(model, PruningAlgorithm):
        model.load_pruned(args.checkpoint)
    else:
        load_weights(model, args.checkpoint, 'checkpoint')
    metrics = runner.test()
    if args.json and runner.rank == 0:
        emit_json({key: float(value) for key, value in metrics.items()}, args.json)


if __name__ == '__main__':
    run(main)
