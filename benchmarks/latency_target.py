"""A target in time against targets in FLOPs: asked, predicted and measured milliseconds.

python benchmarks/latency_target.py --only mobilenet-v2 --threads 1 --results latency_target.json
python benchmarks/latency_target.py --only mobilenet-v2 --half --results latency_target.json
python benchmarks/latency_target.py --results latency_target.json --write               # docs/latency_target.md

Weights are those of a checkpoint (--weights), else random. Scores are L2 norms, so that widths are not uniform. Every
choice is exported, and timed beside the dense network in five fresh processes after the loop of the target has ended;
the table shows the median of them. FLOPs are multiply-adds.
"""
import argparse
import datetime
import math
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np
import torch
from remarks import with_remarks
from timed_structures import counts_of, padded, times

from mmprune.criteria.criterion import build_criterion
from mmprune.deploy.machine import cpu_name
from mmprune.files import read_json, write_json, write_text
from mmprune.latency.meter import Meter
from mmprune.models.from_config import read_config
from mmprune.pruning.plan import make_plan
from mmprune.pruning.search import share_of_cost
from mmprune.pruning.target import PruningTarget
from mmprune.pruning.time_target import TimeTarget
from mmprune.registry import MODELS, build

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs'
SHARES = (0.7, 0.5)


class Network(NamedTuple):
    """A network of the comparison."""

    name: str
    config: str
    shape: Tuple[int, int, int, int]


NETWORKS = (
    Network('resnet50', 'mmcls/group_fisher/resnet50/group_fisher_act_prune_resnet50_8xb32_in1k.py', (1, 3, 224, 224)),
    Network('mobilenet-v2', 'mmcls/group_fisher/mobilenet/group_fisher_act_prune_mobilenet-v2_8xb32_in1k.py',
            (1, 3, 224, 224)),
    Network('rtmpose-s', 'mmpose/group_fisher/group_fisher_prune_rtmpose-s_8xb256-420e_coco-256x192.py',
            (1, 3, 256, 192)),
    Network('retinanet', 'mmdet/group_fisher/retinanet/group_fisher_act_prune_retinanet_r50_fpn_1x_coco.py',
            (1, 3, 416, 416)),
    Network('yolox-s', 'mmdet/group_fisher/yolox/group_fisher_act_prune_yolox_s_8xb8-300e_coco.py', (1, 3, 640, 640)),
    Network('deit-small', 'mmpretrain/taylor/taylor_prune_deit-small_4xb256_in1k.py', (1, 3, 224, 224)),
    Network('swin-tiny', 'mmpretrain/taylor/taylor_prune_swin-tiny_16xb64_in1k.py', (1, 3, 224, 224)))
Masks = Mapping[str, np.ndarray]


def build_model(network: Network, weights: Optional[str]) -> Any:
    """Return the algorithm of a prune config, with random weights or those of a file."""
    model = read_config(str(CONFIGS / network.config)).model
    model.architecture.pop('init_cfg', None)
    model.architecture.get('backbone', {}).pop('init_cfg', None)
    if weights:
        model.architecture.init_cfg = dict(type='Pretrained', checkpoint=weights)
    model.mutator.demo_input.input_shape = network.shape
    torch.manual_seed(0)
    algorithm = build(MODELS, model)
    algorithm.init_weights()
    return algorithm


class Choices:
    """The choices of one network, and what they take.

    Args:
        algorithm (PruningAlgorithm): The network.
        network (Network): Which it is.
        threads (int): Of onnxruntime.
    """

    def __init__(self, algorithm: Any, network: Network, threads: int) -> None:
        self.mutator, self.shape = algorithm.mutator, network.shape
        self.runtime = dict(type='OnnxRuntime', threads=threads)
        self.meter = Meter(dict(self.runtime, input_shape=network.shape), self.mutator)
        began = time.perf_counter()
        self.time = TimeTarget.measured(self.meter)
        self.seconds = time.perf_counter() - began
        self.criterion = build_criterion('L2', self.mutator)

    def plan(self, **target: Any) -> Any:
        """Return the plan for a target."""
        return make_plan(self.mutator, self.criterion, PruningTarget.of(target), time=self.time)

    def rows(self, shares: Tuple[float, ...]) -> List[Dict[str, Any]]:
        """Return what every way to reach each share of the time takes."""
        found: List[Dict[str, Any]] = []
        structures: List[Dict[str, int]] = []
        for share in shares:
            timed = self.plan(latency=share)
            flops = share_of_cost(self.mutator, timed.masks, 'flops')
            ways = [('latency', timed.masks, counts_of(timed.masks), timed)]
            for name, align in (('flops', 1), ('flops, whole blocks', 'auto')):
                plan = self.plan(flops=flops, align=align)
                ways.append((name, plan.masks, counts_of(plan.masks), plan))
                if align == 1:
                    ways.append(('flops, padded', plan.masks, padded(plan.masks, self.time.table.block), plan))
            for name, masks, counts, plan in ways:
                attempts = [attempt._asdict() for attempt in plan.attempts]
                found.append(dict(way=name, asked=share, attempts=attempts, flops=share_of_cost(
                    self.mutator, masks, 'flops'), kept=self.kept(masks), predicted=self.time.table.predict(counts)))
                structures.append(counts)
        for row, (share, milliseconds, dense) in zip(found, times(self.meter, self.runtime, structures)):
            row.update(share=share, ms=milliseconds, dense_ms=dense)
        return found

    def rows_at_flops(self, flops: float) -> List[Dict[str, Any]]:
        """Return how fast choices of whole blocks with a share of the multiply-adds are, and what explains it."""
        chosen = {'scores by multiply-adds': self.plan(flops=flops, align='auto').masks}
        low, high = flops / 2, 1.0
        for _ in range(8):  # the time at which the solver leaves as many multiply-adds
            share = (low + high) / 2
            masks = self.plan_without_loop(share)
            low, high = (low, share) if share_of_cost(self.mutator, masks, 'flops') > flops else (share, high)
        chosen['most scores in the time'] = self.plan_without_loop(low)
        table, rows = self.time.table, []
        dense = table.by_node({})
        fixed = table.calibration.offset + sum(
            dense[law.name] for law in table.laws if not law.reads.units | law.writes.units)
        measured = times(self.meter, self.runtime, [counts_of(masks) for masks in chosen.values()])
        for (name, masks), (share, milliseconds, dense_ms) in zip(chosen.items(), measured):
            left = share_of_cost(self.mutator, masks, 'flops')
            rows.append(dict(way=name, flops=left, share=share, ms=milliseconds, dense_ms=dense_ms,
                             explained=(fixed + (table.dense_ms - fixed) * left) / table.dense_ms,
                             by_nodes=self.explained_by_nodes(counts_of(masks)), kept=self.kept(masks),
                             predicted=table.predict(counts_of(masks)) / table.dense_ms))
        return rows

    def explained_by_nodes(self, counts: Dict[str, int]) -> float:
        """Return the share of the dense time if every node takes the share of its own work, by its channels."""
        table = self.time.table
        times, total = table.by_node({}), table.calibration.offset
        for law in table.laws:
            sides = [law.writes] if not law.coefficients[1] and not law.coefficients[3] else [law.reads, law.writes]
            total += times[law.name] * math.prod(side.of(counts) / side.of(table.units) for side in sides if side.units)
        return total / table.dense_ms

    def plan_without_loop(self, share: float) -> Masks:
        """Return the choice for a time by the table alone."""
        return make_plan(self.mutator, self.criterion, PruningTarget.of(dict(latency=share)),
                         time=TimeTarget(self.time.table)).masks

    def kept(self, masks: Masks) -> float:
        """Return the share of all scores that stays."""
        scores = {unit.name: self.criterion.score(unit).double().numpy() for unit in self.mutator.units}
        return sum(score[masks[name]].sum() for name, score in scores.items()) / sum(map(np.sum, scores.values()))


def document(results: Mapping[str, Any]) -> str:
    """Return the tables of the page."""
    lines = ['# A target in time against targets in FLOPs', '', ' '.join(__doc__.split('\n\n')[2].split()), '',
             '- command: `python benchmarks/latency_target.py --results latency_target.json`, once for each network '
             'and number of threads',
             f'- date: {results["date"]}', f'- machine: {results["machine"]}', '',
             '`first` is the prediction for the first choice against what it then took; a negative error is faster '
             'than asked. The loop corrects the table at most twice. A choice by FLOPs has the FLOPs of that by time; '
             '`padded` rounds its widths up to whole blocks, as a deploy divisor does. [equal_time.md](equal_time.md) '
             'compares accuracy at equal milliseconds.', '']
    for key, one in results['networks'].items():
        lines += [f'## {key}', '', f'Table: {one["seconds"]:.0f} s for {one["measured"]} networks, blocks of '
                  f'{one["block"]} channels; R2 {one["r2"]:.4f}, largest error {one["largest_error"]:.1%} on networks '
                  f'that it had not seen. Dense: {one["rows"][0]["dense_ms"]:.2f} ms.', '',
                  '| asked | way | predicted (ms) | measured (ms) | share of dense | error | first | FLOPs left | '
                  'scores kept |', '| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |']
        for row in one['rows']:
            is_time = row['way'] == 'latency'
            first = row['attempts'][0] if row['attempts'] else None
            error = f'{row["share"] / row["asked"] - 1:+.1%}' if is_time else ''
            offset = f'{first["predicted"] / first["measured"] - 1:+.1%}' if first else ''
            lines.append(f'| {row["asked"]:g} | {row["way"]} | {row["predicted"]:.2f} | {row["ms"]:.2f} | '
                         f'{row["share"]:.3f} | {error} | {offset} | {row["flops"]:.3f} | {row["kept"]:.4f} |')
        lines.append('')
    if results.get('half'):
        lines += ['## Whole blocks at about half of the multiply-adds', '',
                  'One thread. `explained` is what is left of the time if nodes that no unit touches take what they '
                  'took, and all others the share of the multiply-adds; `by nodes`, if each takes that of its own.', '',
                  '| network | choice | FLOPs left | speed-up | share of dense | explained | by nodes | predicted | '
                  'scores kept |', '| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |']
        lines += [f'| {name} | {row["way"]} | {row["flops"]:.3f} | {1 / row["share"]:.2f} | {row["share"]:.3f} | '
                  f'{row["explained"]:.3f} | {row.get("by_nodes", math.nan):.3f} | {row["predicted"]:.3f} | '
                  f'{row["kept"]:.4f} |'
                  for name, rows in results['half'].items() for row in rows]
        lines.append('')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', choices=[network.name for network in NETWORKS], help='one network')
    parser.add_argument('--threads', type=int, default=1, help='threads of onnxruntime (1)')
    parser.add_argument('--weights', help="checkpoint of the network, in the code base's format")
    parser.add_argument('--results', default='latency_target.json', help='json file that results are added to')
    parser.add_argument('--half', action='store_true', help='speed-up of whole blocks at half of the multiply-adds')
    parser.add_argument('--write', action='store_true', help='write the page from the results only')
    parser.add_argument('--page', type=Path, default=ROOT / 'docs' / 'latency_target.md', help='file that is written')
    args = parser.parse_args()
    path = Path(args.results)
    results = read_json(path, 'results') if path.exists() else dict(networks={})
    if args.write:
        write_text(with_remarks(document(results), args.page), args.page)
        return
    torch.set_num_threads(1)
    for network in [network for network in NETWORKS if args.only in (None, network.name)]:
        choices = Choices(build_model(network, args.weights), network, args.threads)
        table = choices.time.table
        if args.half:
            rows = choices.rows_at_flops(0.65 if network.name == 'mobilenet-v2' else 0.5)
            results.setdefault('half', {})[network.name] = rows
            write_json(results, path)
            print(network.name, rows, flush=True)
            continue
        rows = choices.rows(SHARES)
        key = f'{network.name}, {args.threads} thread{"s" * (args.threads != 1)}'
        results['networks'][key] = dict(seconds=choices.seconds, measured=table.networks, block=table.block, rows=rows,
                                        r2=table.calibration.r2, largest_error=table.calibration.largest_error)
        versions = f'onnxruntime {choices.meter.runtime.version()}, torch {torch.__version__}'
        results.update(date=datetime.date.today().isoformat(), machine=f'{cpu_name()}; {versions}')
        write_json(results, path)
        for row in rows:
            print(key, {name: value for name, value in row.items() if name != 'attempts'}, flush=True)


if __name__ == '__main__':
    main()
