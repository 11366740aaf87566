"""Make the files that mmprune 0.1.0 wrote: run with a checkout of that version on PYTHONPATH, from anywhere.

PYTHONPATH=0.1.0 python make.py FOLDER

FOLDER gets a copy of the configs here, what the runs of them leave that is worth keeping (checkpoints are packed), and
`expected.json`: what the old version made of its own files. All paths in the files are relative to FOLDER. torch 2.0
and NumPy 1 write files that newer ones read, too; `tests/models/test_files_of_before.py` runs the same steps again.
"""
import copy
import json
import lzma
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import Runner
from torch import nn

import mmprune
from mmprune.deploy.load import load_model
from mmprune.registry import MODELS

HERE = Path(__file__).resolve().parent
SHAPE = (1, 3, 16, 16)
#: What stays of each run; the checkpoints with a number are those that a run is resumed from.
KEPT = {'prune': ['iter_7.pth', 'flops_0.75.pth', 'fix_subnet.json'],
        'rounds': ['iter_9.pth', 'pruned.pth', 'fix_subnet.json', 'kept_channels.json'],
        'finetune': ['epoch_1.pth', 'fix_subnet.json']}
#: Configs that end with a structure, each with a key or two as users write them.
SHORT = sorted(path.stem for path in (HERE / 'configs' / 'short').glob('*.py'))


def images() -> torch.Tensor:
    """Return four images that need no random numbers."""
    places = torch.arange(3 * 16 * 16, dtype=torch.float64)
    return torch.stack([torch.sin(places * step).float().reshape(SHAPE[1:]) for step in (0.05, 0.2, 0.7, 1.1)])


def logits(model: nn.Module) -> List[List[float]]:
    """Return what a classifier says to the images."""
    with torch.no_grad():
        return copy.deepcopy(model).eval()(images()).double().numpy().round(6).tolist()


def run(config: str, work_dir: str, **changes: Any) -> Runner:
    """Train by a config, as tools/train.py does."""
    cfg = Config.fromfile(config)
    cfg.work_dir = work_dir
    for key, value in changes.items():
        cfg[key] = value
    cfg.experiment_name = f'{Path(work_dir).name}_{len(DefaultScope._instance_dict)}'  # two runs within one second
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def dense_model() -> nn.Module:
    """Return the dense model with its trained weights."""
    cfg = Config.fromfile('configs/dense.py')
    init_default_scope('mmcls')
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    model.load_state_dict(torch.load('dense.pth', map_location='cpu')['state_dict'])
    return model


def read_json(*path: str) -> Any:
    """Return the contents of a json file."""
    return json.loads(Path(*path).read_text())


def unpack(folder: Path) -> None:
    """Unpack all checkpoints in a folder that was made by this script."""
    for path in folder.rglob('*.pth.xz'):
        path.with_suffix('').write_bytes(lzma.decompress(path.read_bytes()))


def make_dense() -> None:
    """Train the dense model a little; only its weights stay."""
    runner = run('configs/dense.py', 'runs/dense')
    torch.save(dict(state_dict=runner.model.state_dict()), 'dense.pth')


def make_structures() -> List[List[float]]:
    """Cut the dense model in Python and write its structure in both forms; return what it says."""
    pruner = mmprune.Pruner(dense_model(), images()[:1], 'L2', target=dict(ratio=0.4, scope='layer'))
    pruner.cut()
    mmprune.save_structure(pruner, 'counts.json')
    mmprune.save_structure(pruner, 'kept.json', kept=True)
    return logits(pruner.model)


def make_schema() -> None:
    """Write the schema of Network Slimming by the tool, and edit it."""
    tool = Path(mmprune.__file__).parents[1] / 'tools/pruning/write_schema.py'
    subprocess.run([sys.executable, tool, 'configs/rounds.py', '--out', 'schema.json', '--prefix', 'backbone.',
                    '--shape', *map(str, SHAPE)], check=True)
    schema = read_json('schema.json')
    schema['shortcuts'][0]['method'] = 'and'
    Path('schema.json').write_text(json.dumps(schema, indent=2) + '\n')


def tidy(name: str) -> None:
    """Leave of a run what is worth keeping, without paths of this machine."""
    folder = Path('runs', name)
    shutil.copy(folder / f'{name}.py', f'configs/dumped/{name}.py')
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in KEPT.get(name, []):
            path.unlink()
    for path in folder.glob('*.pth'):
        checkpoint = torch.load(path, weights_only=False)
        info = checkpoint['message_hub']['runtime_info']
        if 'last_ckpt' in info:
            info['last_ckpt'] = os.path.relpath(info['last_ckpt'])
        torch.save(checkpoint, path)


def main() -> None:
    torch.set_num_threads(1)
    shutil.copytree(HERE / 'configs', Path(sys.argv[1], 'configs'), dirs_exist_ok=True)
    os.chdir(sys.argv[1])
    Path('configs/dumped').mkdir(exist_ok=True)
    make_dense()
    make_schema()
    expected: Dict[str, Any] = dict(cut=make_structures())
    for name in ('prune', 'rounds', 'finetune'):
        runner = run(f'configs/{name}.py', f'runs/{name}')
        tidy(name)
    expected['finetune'] = logits(runner.model)
    Config.fromfile('configs/deploy.py').dump('configs/dumped/deploy.py')
    expected['deploy'] = logits(load_model(Config.fromfile('configs/deploy.py'), 'runs/finetune/epoch_1.pth'))
    expected['short'] = {}
    for name in SHORT:
        run(f'configs/short/{name}.py', f'runs/short/{name}')
        expected['short'][name] = read_json(f'runs/short/{name}/kept_channels.json')
    for name in ('dense', 'short'):
        shutil.rmtree(f'runs/{name}')
    Path('expected.json').write_text(json.dumps(expected) + '\n')
    for path in Path().rglob('*.pth'):
        path.with_name(path.name + '.xz').write_bytes(lzma.compress(path.read_bytes(), preset=9))
        path.unlink()


if __name__ == '__main__':
    main()
