"""A detector of blood cells from its checkpoint to half of its time, beside a peer: three seeds, the same finetuning.

MMPRUNE_DATA=... python benchmarks/blood_cells.py DENSE.pth --work-dir W --peer FOLDER        # what is not there yet
MMPRUNE_DATA=... python benchmarks/blood_cells.py DENSE.pth --work-dir W --seeds 0 --ways ours
python benchmarks/blood_cells.py DENSE.pth --work-dir W --markdown docs/blood_cells.md        # the page, without a run
python -m pip install --no-deps --target FOLDER torch-pruning==1.6.1    # beside transformers mmdet does not load

DENSE.pth is what `tools/train.py configs/mmdet/bccd/retinanet_r18_fpn_bccd.py` trains. `ours` is `mmprune compress` to
half of the dense time. The peer prunes the same network by L1 norms over its dependency graph, all layers together, to
the same multiply-adds, and is finetuned by the same schedule, data and seed in mmengine's Runner. A result is a file.
"""
import argparse
import copy
import datetime
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence

import torch
from criteria_table import PEER, bisected, cost
from mean_and_error import mean_and_error
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint
from torch import nn

from mmprune.arguments import UserError
from mmprune.command_line import run
from mmprune.config import plain
from mmprune.deploy.machine import cpu_name
from mmprune.deploy.runtimes.onnx_runtime import OnnxRuntime
from mmprune.deploy.timing import Candidate, measure
from mmprune.files import read_json, write_json, write_text
from mmprune.models.architecture import build_architecture
from mmprune.models.from_config import dense_config, read_config
from mmprune.report.stage_record import read_records

ROOT = Path(__file__).resolve().parents[1]
CONFIG = 'configs/mmdet/bccd/retinanet_r18_fpn_bccd.py'
SHAPE, METRIC = (1, 3, 240, 320), 'coco/bbox_mAP'
WAYS, SEEDS = ('ours', 'peer'), (0, 1, 2)


class Bench:
    """One dense network, and what becomes of it.

    Args:
        args (Namespace): Of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.folder = args, args.work_dir.resolve()

    def result(self, way: str, seed: int) -> Path:
        """Return the file of a result."""
        return self.folder / f'{way}_{seed}.json'

    def run(self, way: str, seed: int) -> None:
        """Run a way, unless its result is there."""
        if self.result(way, seed).exists():
            return
        found = self.ours(seed) if way == 'ours' else self.peer(seed)
        facts = dict(way=way, seed=seed, date=datetime.date.today().isoformat(), cpu=cpu_name(),
                     torch=torch.__version__, part=self.args.finetune)
        write_json(dict(facts, **found), self.result(way, seed))
        print(f'{way}, seed {seed}: {found}', flush=True)

    def road(self, seed: int) -> Path:
        """Return the folder of our compression."""
        return self.folder / f'road_{seed}'

    def ours(self, seed: int) -> Dict[str, Any]:
        """Compress; return what the records hold."""
        command = [sys.executable, '-m', 'mmprune', 'compress', CONFIG, self.args.checkpoint, '--target', 'latency=0.5',
                   '--finetune', str(self.args.finetune), '--work-dir', str(self.road(seed)), '--cfg-options',
                   f'randomness.seed={seed}']
        if subprocess.call(command, cwd=ROOT, env=dict(os.environ, PYTHONPATH=str(ROOT))):
            raise UserError('compress failed, see above')
        found = {stage: record.result for stage, record in read_records(self.road(seed)).items()}
        times = {**found['deploy']['times'], **found['int8']['times']}
        return dict(dense=found['dense']['metrics'][METRIC], pruned=found['prune']['metrics'][METRIC],
                    finetuned=found['test']['metrics'][METRIC], deployed=found['test-deployed']['metrics'][METRIC],
                    int8=found['int8']['metrics'][METRIC], macs=found['prune']['cost']['pruned']['macs'],
                    dense_macs=found['prune']['cost']['dense']['macs'],
                    ms={name: one['median'] for name, one in times.items()})

    def peer(self, seed: int) -> Dict[str, Any]:
        """Prune by the peer to our multiply-adds, and finetune alike."""
        ours = read_json(self.result('ours', seed), 'our result, whose multiply-adds the peer gets')
        sys.path.insert(0, self.args.peer)
        cfg = read_config(str(self.road(seed) / 'configs/finetune.py'))
        init_default_scope(cfg.default_scope)
        dense = build_architecture(dense_config(cfg)[0], None)[0]
        load_checkpoint(dense, self.args.checkpoint, map_location='cpu')
        model = pruned_by_peer(dense.eval(), ours['macs'])
        left, before = cost(model, SHAPE)['macs'], copy.deepcopy(model)
        hooks = [hook for hook in plain(cfg.custom_hooks) if hook['type'] != 'mmprune.PruningStructureHook']
        parts = {name: plain(cfg[name]) for name in (
            'train_dataloader', 'train_cfg', 'val_dataloader', 'val_cfg', 'val_evaluator', 'test_dataloader',
            'test_cfg', 'test_evaluator', 'optim_wrapper', 'param_scheduler', 'default_hooks', 'env_cfg',
            'randomness', 'log_level', 'default_scope')}
        parts['train_cfg'].pop('_delete_', None)
        runner = Runner(model=model, work_dir=str(self.folder / f'peer_{seed}'), custom_hooks=hooks,
                        experiment_name=f'peer_{seed}', **parts)
        started = runner.test()[METRIC]
        runner.train()
        return dict(pruned=started, finetuned=runner.test()[METRIC], macs=left, ms=self.time(dense, before))

    def time(self, dense: nn.Module, pruned: nn.Module) -> Dict[str, float]:
        """Time two networks, without decoding and NMS, in turns."""
        runtime, x = OnnxRuntime(1), torch.zeros(SHAPE)
        folder = self.folder / 'onnx'
        folder.mkdir(parents=True, exist_ok=True)
        found = measure({name: Candidate(runtime, runtime.prepare(model.eval(), x, folder / f'{name}.onnx'))
                         for name, model in (('dense', dense), ('pruned', pruned))}, x, 60)
        return {name: found[name].median for name in ('dense', 'pruned')}


def pruned_by_peer(model: Any, target: int) -> nn.Module:
    """Prune a detector by torch-pruning to at most so many multiply-adds; what its head predicts stays."""
    import torch_pruning
    outputs = (model.bbox_head.retina_cls, model.bbox_head.retina_reg)
    ignored = [place for place, module in enumerate(model.modules()) if module in outputs]

    def pruner_of(ratio: float) -> Any:
        one = copy.deepcopy(model)
        modules = [*one.modules()]
        return torch_pruning.pruner.BasePruner(
            one, torch.zeros(SHAPE), importance=torch_pruning.importance.GroupMagnitudeImportance(p=1),
            global_pruning=True, pruning_ratio=ratio, ignored_layers=[modules[place] for place in ignored])

    return bisected(pruner_of, target, SHAPE)


def page(folder: Path) -> str:
    """Return the page."""
    rows: Dict[str, List[Dict[str, Any]]] = {way: [read_json(path, 'a result') for path in sorted(folder.glob(
        f'{way}_[0-9]*.json'))] for way in WAYS}
    ours, peer = rows['ours'], rows['peer']
    if not ours:
        raise UserError(f'{folder} has no result of ours')
    first = ours[0]

    def points(several: Sequence[Dict[str, Any]], key: str) -> str:
        return mean_and_error([100 * row[key] for row in several], 1)

    def share(several: Sequence[Dict[str, Any]]) -> str:
        return mean_and_error([100 * row['macs'] / first['dense_macs'] for row in several], 1)

    def time(several: Sequence[Dict[str, Any]], key: str, base: str) -> str:
        return mean_and_error([100 * row['ms'][key] / row['ms'][base] for row in several], 1)

    lines = [
        '# A detector to half of its time', '',
        f'`MMPRUNE_DATA=... python benchmarks/blood_cells.py DENSE.pth --work-dir W --finetune {first["part"]:g} '
        f'--peer FOLDER`, {first["date"]}; {first["cpu"]}, 2 cores shared with others, torch {first["torch"]}.', '',
        'RetinaNet with a ResNet-18 on blood cells, 320 x 240; AP on the 72 test images, in points: the mean of the',
        'seeds with its standard error. Time is that of the network in onnxruntime with one thread, in per cent of the',
        f'dense one beside it. `ours` is `mmprune compress --target latency=0.5`. {PEER} prunes by L1 norms over its',
        'dependency graph, all layers together, to the same multiply-adds; finetuning is the same.', '',
        '| network | multiply-adds (%) | time (%) | AP before training | AP finetuned | AP of the file | AP in INT8 | '
        'time in INT8 (%) | seeds |', '| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
        f'| dense | 100 | 100 | {100 * first["dense"]:.1f} | | | | {time(ours, "dense_int8", "dense")} | |',
        f'| ours | {share(ours)} | {time(ours, "pruned", "dense")} | {points(ours, "pruned")} | '
        f'{points(ours, "finetuned")} | {points(ours, "deployed")} | {points(ours, "int8")} | '
        f'{time(ours, "pruned_int8", "dense")} | {len(ours)} |']
    if peer:
        lines.append(f'| {PEER}, L1 | {share(peer)} | {time(peer, "pruned", "dense")} | {points(peer, "pruned")} | '
                     f'{points(peer, "finetuned")} | | | | {len(peer)} |')
    return '\n'.join([*lines, ''])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='of the dense network')
    parser.add_argument('--work-dir', type=Path, required=True)
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS, help='(0 1 2)')
    parser.add_argument('--ways', nargs='+', choices=WAYS, default=WAYS)
    parser.add_argument('--finetune', type=float, default=0.5, help='length, in trainings of the dense network (0.5)')
    parser.add_argument('--peer', metavar='FOLDER', help=f'where {PEER} is; left out without')
    parser.add_argument('--markdown', metavar='FILE', help='write the page, run nothing')
    args = parser.parse_args()
    if args.markdown:
        write_text(page(args.work_dir), args.markdown)
        return
    bench = Bench(args)
    for seed in args.seeds:
        for way in args.ways:
            if way == 'ours' or args.peer:
                bench.run(way, seed)


if __name__ == '__main__':
    run(main)
