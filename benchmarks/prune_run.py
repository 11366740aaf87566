"""Measure a whole prune run, step by step beside plain dense steps on the same batches, and its accuracy.

MMPRUNE_DATA=... python benchmarks/prune_run.py
MMPRUNE_DATA=... python benchmarks/prune_run.py --channels-per-event 8 --interval 24
MMPRUNE_DATA=... python benchmarks/prune_run.py --channels-per-event 8 --align 8 --interval 24 --json run.json

The default config is the narrow ResNet-18 on CIFAR-10; its dense checkpoint must be there. Times are those of the steps
alone, without loading data. The plain model takes as many steps, in turns with the other, and does not learn from them
anything that counts here. Accuracy is measured on the config's validation data, after pruning and after finetuning.
"""
import argparse
import copy
import datetime
import os
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

import computing
import torch
from computing import Computing
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import EVALUATOR, MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn

from mmprune.command_line import emit_json, run
from mmprune.config import plain
from mmprune.engine.processes import let_forks_die_with_this
from mmprune.group_fisher.algorithm import GroupFisherAlgorithm
from mmprune.models.from_config import read_config
from mmprune.models.prune_sub_model import GroupFisherSubModel

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ROOT / 'configs/mmcls/cifar10/group_fisher_act_prune_resnet18-narrow_cifar10.py'


class Step(NamedTuple):
    """One iteration: multiply-adds left of the dense ones, seconds of the prune step and of the plain one."""

    flops: float
    prune: float
    plain: float


def timed(model: nn.Module, batch: Any, wrapper: OptimWrapper, compute: Computing) -> float:
    """Take a step; return its seconds."""
    compute.synchronize()
    began = time.perf_counter()
    model.train_step(batch, wrapper)
    compute.synchronize()
    return time.perf_counter() - began


def prune(algorithm: GroupFisherAlgorithm, cfg: Config, target: float, compute: Computing) -> List[Step]:
    """Prune down to a share of the multiply-adds, each step beside a plain one."""
    dense: Any = copy.deepcopy(algorithm)
    dense.mutator.release()
    dense = dense.architecture
    wrapper_cfg = compute.optim_wrapper(plain(cfg.optim_wrapper))
    wrappers = [build_optim_wrapper(model, wrapper_cfg) for model in (algorithm, dense)]
    loader = Runner.build_dataloader(plain(cfg.train_dataloader), seed=0)
    whole = algorithm.mutator.cost['macs']
    steps: List[Step] = []
    algorithm.train(), dense.train()
    while True:
        for batch in loader:
            pair = [timed(model, copy.deepcopy(batch), wrapper, compute)
                    for model, wrapper in zip((algorithm, dense), wrappers)]
            steps.append(Step(algorithm.mutator.cost['macs'] / whole, *pair))
            if steps[-1].flops <= target:
                return steps


def finetune(model: nn.Module, cfg: Config, learning_rate: float, epochs: int, compute: Computing) -> None:
    """Train what is left, with a learning rate that falls to zero."""
    optim_cfg = compute.optim_wrapper(plain(cfg.optim_wrapper))
    optim_cfg['optimizer']['lr'] = learning_rate
    wrapper = build_optim_wrapper(model, optim_cfg)
    loader = Runner.build_dataloader(plain(cfg.train_dataloader), seed=1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(wrapper.optimizer, epochs * len(loader))
    model.train()
    for _ in range(epochs):
        for batch in loader:
            model.train_step(batch, wrapper)
            schedule.step()


def accuracy(model: nn.Module, cfg: Config, compute: Computing) -> float:
    """Return the top-1 accuracy on the validation data, in per cent."""
    loader = Runner.build_dataloader(plain(cfg.val_dataloader), seed=0)
    evaluator = EVALUATOR.build(dict(type='Evaluator', metrics=plain(cfg.val_evaluator)))
    model.eval()
    with torch.no_grad(), compute.autocast():
        for batch in loader:
            evaluator.process(data_samples=model.val_step(batch), data_batch=batch)
    metrics: Dict[str, float] = evaluator.evaluate(len(loader.dataset))
    return metrics['accuracy/top1']


def curve(steps: List[Step], points: int = 10) -> List[Dict[str, float]]:
    """Return the run in pieces: the multiply-adds at the end of each, and its time by that of the plain steps."""
    bounds = [len(steps) * point // points for point in range(points + 1)]
    return [dict(iteration=end, flops=steps[end - 1].flops,
                 ratio=sum(step.prune for step in steps[start:end]) / sum(step.plain for step in steps[start:end]))
            for start, end in zip(bounds, bounds[1:]) if end > start]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default=str(DEFAULT), help='prune config of a classifier')
    parser.add_argument('--channels-per-event', type=int, default=1)
    parser.add_argument('--align', type=int, default=1)
    parser.add_argument('--interval', type=int, help='iterations between two events (as in the config)')
    parser.add_argument('--target', type=float, default=0.5)
    parser.add_argument('--finetune-epochs', type=int, default=2)
    parser.add_argument('--finetune-lr', type=float, default=0.02)
    computing.add_options(parser, memory_format='contiguous_format')
    parser.add_argument('--json', help='file for the results, - for stdout')
    args = parser.parse_args()
    compute = Computing.of(args)
    MMLogger.get_current_instance().setLevel('WARNING')  # how each weight was initialised
    let_forks_die_with_this()
    cfg = read_config(args.config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = dict(plain(cfg.model), channels_per_event=args.channels_per_event, align=args.align,
                 interval=args.interval or cfg.model.interval)
    algorithm: GroupFisherAlgorithm = MODELS.build(model)
    algorithm.init_weights()
    compute.placed(algorithm)
    steps = prune(algorithm, cfg, args.target, compute)
    results: Dict[str, Any] = dict(
        channels_per_event=args.channels_per_event, align=args.align, interval=model['interval'], iterations=len(steps),
        flops=steps[-1].flops, prune_s=sum(step.prune for step in steps), plain_s=sum(step.plain for step in steps),
        structure=algorithm.mutator.structure, date=datetime.date.today().isoformat(), threads=args.threads,
        device=compute.name, load=os.getloadavg()[0], torch=torch.__version__, curve=curve(steps))
    results['run_ratio'] = results['prune_s'] / results['plain_s']
    results['pruned'] = accuracy(algorithm, cfg, compute)
    small = GroupFisherSubModel(algorithm)
    finetune(small, cfg, args.finetune_lr, args.finetune_epochs, compute)
    results['finetuned'] = accuracy(small, cfg, compute)
    print(f'{len(steps)} iterations to {steps[-1].flops:.3f} of the multiply-adds: {results["prune_s"]:.1f} s, plain '
          f'dense steps {results["plain_s"]:.1f} s, ratio {results["run_ratio"]:.3f}')
    print('\n'.join(f'  until iteration {piece["iteration"]:>5.0f}: {piece["flops"]:.3f} of the multiply-adds, '
                    f'{piece["ratio"]:.3f} of the plain time' for piece in results['curve']))
    print(f'accuracy: pruned {results["pruned"]:.2f}, finetuned for {args.finetune_epochs} epochs '
          f'{results["finetuned"]:.2f}')
    if args.json:
        emit_json(results, args.json)


if __name__ == '__main__':
    run(main)
