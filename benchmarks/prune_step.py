"""Measure what a prune step and a prune event cost, beside plain training steps of the same model.

python benchmarks/prune_step.py
python benchmarks/prune_step.py --config configs/mmcls/group_fisher/mobilenet/PRUNE_CONFIG.py
python benchmarks/prune_step.py --peer FOLDER_WITH_MMRAZOR --json step.json

All variants take steps in turns, in one process, each with a model, an optimizer and the same batch of its own; a
ratio is the median over the rounds of a variant's time by the plain step's time in that round. Memory is the peak of
what torch has allocated in a step, parameters, buffers and optimizer state included, by the profiler.
Two threads on two cores wait for one another as soon as anything else runs: keep the machine idle, or use --threads 1.
"""
import argparse
import copy
import datetime
import os
import statistics
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import computing
import mmrazor_peer
import torch
from computing import Computing
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mmprune.command_line import emit_json, run
from mmprune.config import plain
from mmprune.engine.runner import AveragedFollower
from mmprune.group_fisher.algorithm import GroupFisherAlgorithm
from mmprune.models.from_config import read_config
from mmprune.units.structure import read_structure

ROOT = Path(__file__).resolve().parents[1]
DEFAULT = ROOT / 'configs/mmcls/group_fisher/resnet50/group_fisher_act_prune_resnet50_8xb32_in1k.py'
#: What the numbers have to stay below.
BARS = {'step_ratio': 1.08, 'memory_ratio': 1.03, 'half_flops_ratio': 0.75, 'event_ms': 30.0}
NEVER = 10**9


class Variant:
    """A model that takes training steps.

    Args:
        model (nn.Module): What is trained.
        cfg (Config): Where the optimizer comes from.
        batch (Callable): Returns a batch; a step may change it.
        computing (Computing): Where it is trained.
    """

    def __init__(self, model: nn.Module, cfg: Config, batch: Callable[[], Dict[str, Any]],
                 computing: Computing) -> None:
        self.model, self.batch, self.computing = computing.placed(model.train()), batch, computing
        self.optim_wrapper = build_optim_wrapper(self.model, computing.optim_wrapper(plain(cfg.optim_wrapper)))
        self.seconds: List[float] = []

    def step(self) -> float:
        """Return how long a step took, in seconds."""
        batch = self.batch()
        self.computing.synchronize()
        began = time.perf_counter()
        self.model.train_step(batch, self.optim_wrapper)
        self.computing.synchronize()
        return time.perf_counter() - began

    def peak(self) -> int:
        """Return the peak of a step in bytes: what was there before it, and the most that it added."""
        batch = self.batch()
        tensors = [*self.model.parameters(), *self.model.buffers()]
        tensors += [value for state in self.optim_wrapper.optimizer.state.values() for value in state.values()
                    if isinstance(value, torch.Tensor)]
        tensors += [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        there = sum({tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in tensors}.values())
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            self.model.train_step(batch, self.optim_wrapper)
        events = [event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]']
        now, most = 0, 0
        for event in sorted(events, key=lambda one: one.start_ns() if hasattr(one, 'start_ns') else one.start_us()):
            now += event.nbytes()
            most = max(most, now)
        return there + most


def batches(cfg: Config, size: int, compute: Computing) -> Callable[[], Dict[str, Any]]:
    """Return a function that gives the same batch of images and labels each time."""
    sample = __import__(cfg.default_scope, fromlist=['structures']).structures
    kind = getattr(sample, 'ClsDataSample', None) or sample.DataSample
    shape = tuple(cfg.model.mutator.demo_input.input_shape)[1:]
    torch.manual_seed(0)
    images = compute.placed(torch.randint(0, 256, (size, *shape), dtype=torch.uint8))
    labels = torch.randint(0, cfg.model.architecture.head.num_classes, (size,)).tolist()

    def batch() -> Dict[str, Any]:
        samples = [kind() for _ in labels]
        for one, label in zip(samples, labels):
            (one.set_gt_label if hasattr(one, 'set_gt_label') else one.set_label)(label)
        return dict(inputs=images.clone(), data_samples=samples)

    return batch


def algorithm(cfg: Config, structure: Optional[Dict[str, int]] = None) -> GroupFisherAlgorithm:
    """Return the algorithm of a prune config with random weights, which never comes to a prune event by itself."""
    model = plain(cfg.model)
    model['architecture'].pop('init_cfg', None)
    built: GroupFisherAlgorithm = MODELS.build(dict(model, interval=NEVER))
    built.init_weights()
    if structure:
        built.mutator.apply_structure(structure)
    return built


def published_structure(config: Path) -> Optional[Dict[str, int]]:
    """Return the structure that lies beside a prune config, or None."""
    path = config.with_name(config.stem.replace('_prune_', '_') + '.json')
    return read_structure(str(path)) if path.is_file() else None


def measure(variants: Dict[str, Variant], rounds: int) -> Dict[str, List[float]]:
    """Return variant -> seconds of each round; two rounds warm up."""
    for number in range(rounds + 2):
        for name, variant in variants.items():
            seconds = variant.step()
            if number >= 2:
                variant.seconds.append(seconds)
                print(f'  round {number - 1}: {name} {seconds * 1e3:.0f} ms', flush=True)
    return {name: variant.seconds for name, variant in variants.items()}


def event_ms(variant: Variant, events: int = 21) -> Tuple[float, float, float]:
    """Return median, least and most of prune events: choose, cut the model, its optimizer and an averaged copy."""
    model = variant.model
    assert isinstance(model, GroupFisherAlgorithm)
    averaged = ExponentialMovingAverage(model)
    model.followers = [AveragedFollower(averaged)]
    taken = []
    for _ in range(events):
        model.mutator.fisher.uniform_()
        began = time.perf_counter()
        assert model.prune([variant.optim_wrapper.optimizer])
        taken.append((time.perf_counter() - began) * 1e3)
    return statistics.median(taken), min(taken), max(taken)


def ratio(seconds: Dict[str, List[float]], name: str) -> Tuple[float, float, float]:
    """Return median, least and most of a variant's time by the plain step's."""
    ratios = [mine / plain_step for mine, plain_step in zip(seconds[name], seconds['plain'])]
    return statistics.median(ratios), min(ratios), max(ratios)


def table(results: Dict[str, Any], spread: Dict[str, Tuple[float, float]]) -> str:
    """Return the numbers beside their bars."""
    lines = ['| number | measured | least-most | bar | |', '| --- | ---: | ---: | ---: | --- |']
    for key, value in results.items():
        if isinstance(value, float):
            low_high = '-'.join(f'{one:.3g}' for one in spread[key]) if key in spread else ''
            bar = BARS.get(key)
            verdict = '' if bar is None else 'holds' if value <= bar else 'missed'
            lines.append(f'| {key} | {value:.3f} | {low_high} | {"" if bar is None else f"{bar:g}"} | {verdict} |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default=str(DEFAULT), help='prune config of a classifier (ResNet-50)')
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--rounds', type=int, default=15)
    computing.add_options(parser, threads=2, memory_format='contiguous_format')
    parser.add_argument('--peer', help="folder that holds mmrazor/; its step is measured beside ours")
    parser.add_argument('--json', help='file for the numbers, - for stdout')
    args = parser.parse_args()
    compute = Computing.of(args)
    MMLogger.get_current_instance().setLevel('WARNING')  # how each weight was initialised
    cfg = read_config(args.config)
    init_default_scope(cfg.default_scope)
    batch = batches(cfg, args.batch, compute)
    ours = algorithm(cfg)
    variants = {'plain': Variant(copy_of_dense(ours), cfg, batch, compute), 'step': Variant(ours, cfg, batch, compute)}
    structure = published_structure(Path(args.config))
    if structure:
        variants['half_flops'] = Variant(algorithm(cfg, structure), cfg, batch, compute)
    if args.peer:
        kind = cfg.model.mutator.channel_unit_cfg.normalization_type
        variants['peer'] = Variant(mmrazor_peer.build(args.peer, plain(cfg.model.architecture), kind), cfg, batch,
                                  compute)
    seconds = measure(variants, args.rounds)
    results: Dict[str, Any] = dict(config=Path(args.config).stem, torch=torch.__version__, device=compute.name,
                                   threads=args.threads, batch=args.batch, date=datetime.date.today().isoformat(),
                                   load=os.getloadavg()[0], plain_ms=statistics.median(seconds['plain']) * 1e3)
    spread: Dict[str, Tuple[float, float]] = {}
    for name in [name for name in variants if name != 'plain']:
        results[f'{name}_ratio'], *low_high = ratio(seconds, name)
        spread[f'{name}_ratio'] = (low_high[0], low_high[1])
    plain_peak = variants['plain'].peak()
    results['memory_ratio'] = variants['step'].peak() / plain_peak
    if args.peer:
        results['peer_memory_ratio'] = variants['peer'].peak() / plain_peak
    results['event_ms'], *low_high = event_ms(variants['step'])
    spread['event_ms'] = (low_high[0], low_high[1])
    print(f'{results["config"]}, batch {args.batch}, {args.threads} threads, {compute.name}, {args.memory_format}, '
          f'torch {torch.__version__}, {args.rounds} rounds, load {results["load"]:.1f}; plain step '
          f'{results["plain_ms"]:.0f} ms')
    print(table({key: value for key, value in results.items() if key not in ('load', 'plain_ms')}, spread))
    if args.json:
        emit_json(results, args.json)


def copy_of_dense(model: GroupFisherAlgorithm) -> nn.Module:
    """Return the architecture as it was before it was tapped, as a model of its own."""
    dense = copy.deepcopy(model)
    dense.mutator.release()
    return dense.architecture


if __name__ == '__main__':
    run(main)
