"""Kill a prune run at random moments, resume it each time, and compare its end with a run that was never killed.

python benchmarks/kill_and_resume.py --kills 20 --workers 0 2

A small ResNet on scikit-learn's digits with random crops and flips, checkpoints every few iterations. Every other kill
waits for a checkpoint that is being written. Structures and weights must be bit-equal at the end.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmprune.command_line import run
from mmprune.models.checkpoint import latest_checkpoint
from mmprune.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
DENSE = ROOT / 'configs/mmcls/digits/resnet-small_digits.py'
SAVE = 3
#: to be formatted with: dense config, its weights, interval of checkpoints, images of an epoch
PRUNE = '''
_base_ = {base!r}
from mmprune.config import prune_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, {weights!r}, 2, 'act', 0.5, 0.05, (1, 3, 32, 32))
train_pipeline = [
    dict(type='Resize', scale=(36, 36)), dict(type='RandomCrop', crop_size=32),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'), dict(type='PackClsInputs')]
train_dataloader = dict(batch_size=8, dataset=dict(indices={images}, pipeline=train_pipeline))
default_hooks = dict(checkpoint=dict(interval={save}, by_epoch=False, max_keep_ckpts=2), logger=dict(interval=1))
train_cfg = dict(max_epochs=2, val_interval=1)
val_dataloader = dict(dataset=dict(indices=100))
'''


def write_config(folder: Path, images: int) -> Path:
    """Write a prune config and the random weights that it starts from."""
    cfg = Config.fromfile(DENSE)
    init_default_scope('mmcls')
    torch.manual_seed(0)
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    torch.save(dict(state_dict=model.state_dict()), folder / 'dense.pth')
    path = folder / 'prune.py'
    path.write_text(PRUNE.format(base=str(DENSE), weights=str(folder / 'dense.pth'), save=SAVE,
                                 images=images))
    return path


def start(config: Path, work_dir: Path, workers: int) -> 'subprocess.Popen[str]':
    """Start the run, or go on with it."""
    command = [sys.executable, '-W', 'ignore', str(ROOT / 'tools/train.py'), str(config), '--work-dir', str(work_dir),
               '--resume', '--cfg-options', f'train_dataloader.num_workers={workers}',
               f'train_dataloader.persistent_workers={workers > 0}']
    with open(work_dir.parent / f'{work_dir.name}.log', 'a') as log:
        return subprocess.Popen(command, cwd=ROOT, env=dict(os.environ, OMP_NUM_THREADS='1'), stdout=log,
                                stderr=subprocess.STDOUT, text=True)


def finish(config: Path, work_dir: Path, workers: int) -> None:
    """Run to the end."""
    work_dir.mkdir(parents=True, exist_ok=True)
    process = start(config, work_dir, workers)
    log = work_dir.parent / f'{work_dir.name}.log'
    if process.wait() != 0 and 'error: the run ended at' not in log.read_text():  # it is not to reach its target
        sys.exit(f'the run failed:\n{log.read_text()[-2000:]}')


def iteration(work_dir: Path) -> int:
    """Return the iteration of the newest checkpoint."""
    newest = latest_checkpoint(str(work_dir))
    return int(Path(newest).stem.split('_')[1]) if newest else 0


def kill(config: Path, work_dir: Path, workers: int, writing: bool, rng: random.Random) -> Optional[Tuple[int, bool]]:
    """Go on with the run and kill it.

    Returns:
        tuple[int, bool] or None: The last whole checkpoint and whether one was being written; None if the run ended.
    """
    process = start(config, work_dir, workers)
    before = {path.name for path in work_dir.glob('*.pth')}
    saves, delay = rng.randint(1, 2), rng.uniform(0, 0.4)
    while process.poll() is None:
        new = {path.name for path in work_dir.glob('*.pth')} - before
        torn = list(work_dir.glob('.[0-9]*.pth'))
        if len(new) >= saves and (torn or not writing):
            if not writing:
                time.sleep(delay)
            process.kill()
            process.wait()
            return iteration(work_dir), bool(list(work_dir.glob('.[0-9]*.pth')))
        time.sleep(0.0002 if len(new) >= saves else 0.01)
    return None


def same_end(first: Path, second: Path) -> Dict[str, bool]:
    """Compare the last checkpoints of two runs."""
    states = [torch.load(str(latest_checkpoint(str(folder))), weights_only=False) for folder in (first, second)]
    weights = [state['state_dict'] for state in states]
    moments = [state['optimizer']['state'] for state in states]
    return dict(
        iterations=states[0]['meta']['iter'] == states[1]['meta']['iter'],
        weights_and_structure=list(weights[0]) == list(weights[1]) and all(
            torch.equal(value, weights[1][key]) for key, value in weights[0].items()),
        optimizer=all(torch.equal(value, moments[1][key][name]) for key, one in moments[0].items()
                      for name, value in one.items() if isinstance(value, torch.Tensor)))


def trial(folder: Path, workers: int, kills: int, seed: int, images: int) -> Dict[str, object]:
    """Run once in peace and once with kills; return what happened."""
    config, rng = write_config(folder, images), random.Random(seed)
    whole, killed = folder / f'whole_{workers}', folder / f'killed_{workers}'
    finish(config, whole, workers)
    killed.mkdir()
    points: List[int] = []
    during_write = 0
    while len(points) < kills:
        result = kill(config, killed, workers, len(points) % 2 == 1, rng)
        if result is None:  # it came to its end: once more from the beginning
            assert all(same_end(whole, killed).values()), f'{killed} differs from {whole}'
            killed = folder / f'killed_{workers}_{len(points)}'
            killed.mkdir()
            continue
        points.append(result[0])
        during_write += result[1]
        print(f'  workers {workers}: kill {len(points)} after iteration {result[0]}'
              f'{", while a checkpoint was being written" if result[1] else ""}', flush=True)
    finish(config, killed, workers)
    return dict(workers=workers, kills=kills, kills_during_a_write=during_write, **same_end(whole, killed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=20, help='kills of each run (20)')
    parser.add_argument('--workers', type=int, nargs='+', default=[0, 2], help='workers of the data loader (0 2)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--images', type=int, default=400, help='digits of an epoch, eight an iteration (400)')
    parser.add_argument('--json', help='file for the results')
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for workers in args.workers:
            results.append(trial(Path(folder), workers, args.kills, args.seed, args.images))
            print(', '.join(f'{key} {value}' for key, value in results[-1].items()), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + '\n')
    if not all(result[key] for result in results for key in ('iterations', 'weights_and_structure', 'optimizer')):
        sys.exit('a run that was killed ended otherwise than one that was not')


if __name__ == '__main__':
    run(main)
