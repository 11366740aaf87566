"""Walk the whole road by tools/ with networks of every family: train, prune, finetune, test, deploy, on real images.

python benchmarks/whole_road.py --data DATA --work-dir W
python benchmarks/whole_road.py --data DATA --work-dir W --only yolox rtmpose --markdown road.md

The networks are those of OpenMMLab's configs, from random weights; images are small and schedules short, so accuracies
say that the road is whole, not what pruning costs. Each stage is the command that a user types, with configs of three
lines such as his; it must end with status 0, pruning at its target, and deployment with parity. DATA holds ``bccd``
(blood cells as COCO json), ``pose_minicoco`` (COCO's keypoints) and ``imagenet_sample`` (a folder with ``meta.txt``).
A stage that is done is not done again.
"""
import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.hub import get_config

from mmprune.command_line import run
from mmprune.config import plain
from mmprune.engine.deployed_evaluation import innermost

ROOT = Path(__file__).resolve().parents[1]
CELLS = dict(classes=('RBC', 'WBC', 'Platelets'))
PRUNE = """_base_ = './dense.py'
from mmprune.config import prune_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, {checkpoint!r}, 1, {per!r}, 0.1, {target}, {shape}, mutate_linear={linear})
model['channels_per_event'] = {channels}
param_scheduler = []
train_cfg = dict(max_epochs=100, val_interval=100, dynamic_intervals=None)
"""
FINETUNE = """_base_ = './prune.py'
from mmprune.config import finetune_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = finetune_settings(_base_, {checkpoint!r}, {lr})
train_cfg = dict(max_epochs={epochs}, val_interval={epochs})
"""
DEPLOY = """_base_ = './dense.py'
from mmprune.config import deploy_model
model = deploy_model(_base_, {structure!r}, 8, {shape}, mutate_linear={linear})
"""


@dataclass
class Network:
    """A network of an OpenMMLab config, and what becomes of it."""

    config: str
    size: Tuple[int, int]  # width, height of the images
    metric: str
    deploy: str  # in configs/deploy
    lr: float
    epochs: int = 2
    channels: int = 50  # one prune event
    target: float = 0.7
    transformer: bool = False  # heads, dimensions, MLPs and stream go, by Fisher per FLOP

    @property
    def classifies(self) -> bool:
        """Whether it names an image's class."""
        return self.config.startswith(('mmcls::', 'mmpretrain::'))


NETWORKS = {
    'ResNet-50': Network('mmcls::resnet/resnet50_8xb32_in1k.py', (64, 64), 'accuracy/top1',
                         'classification_onnxruntime_dynamic.py', 0.01, 1),
    'DeiT-T': Network('mmpretrain::deit/deit-tiny_4xb256_in1k.py', (224, 224), 'accuracy/top1',
                      'classification_onnxruntime_dynamic.py', 0.0005, 1, channels=300, target=0.5, transformer=True),
    'RetinaNet': Network('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', (160, 128), 'coco/bbox_mAP',
                         'detection_onnxruntime_dynamic.py', 0.001),
    'Faster R-CNN': Network('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', (160, 128), 'coco/bbox_mAP',
                            'detection_onnxruntime_dynamic.py', 0.002, channels=100, target=0.9),
    'YOLOX-s': Network('mmdet::yolox/yolox_s_8xb8-300e_coco.py', (160, 160), 'coco/bbox_mAP',
                       'detection_onnxruntime_dynamic.py', 0.01, 10, channels=20),
    'RTMDet-s': Network('mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py', (160, 160), 'coco/bbox_mAP',
                        'detection_onnxruntime_dynamic.py', 0.001, 10, channels=20),
    'RTMPose-s': Network('mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py', (192, 256),
                         'coco/AP', 'pose-detection_simcc_onnxruntime_static.py', 0.001, 10, channels=20)}


def replaced(value: Any, table: Dict[Tuple[int, ...], Tuple[int, ...]]) -> Any:
    """Return a config with image sizes replaced, at any depth."""
    if isinstance(value, dict):
        return {key: replaced(item, table) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return table.get(tuple(value) if all(isinstance(item, int) for item in value) else (),
                         type(value)(replaced(item, table) for item in value))
    return value


def data_of(network: Network, data: Path) -> Dict[str, Tuple[Dict[str, Any], str]]:
    """Return for each stage what its data set is, and its annotation file."""
    if network.classifies:
        images = dict(type='CustomDataset', data_root='', ann_file=str(data / 'imagenet_sample/meta.txt'),
                      data_prefix=str(data / 'imagenet_sample'), _delete_=True)
        return dict.fromkeys(('train', 'val', 'test'), (images, ''))
    if 'mmpose' in network.config:
        root = data / 'pose_minicoco'
        file = 'annotations/person_keypoints_train2017.json'
        people = dict(data_root=str(root), ann_file=file, data_prefix=dict(img='images/train2017/'), bbox_file=None)
        return dict.fromkeys(('train', 'val', 'test'), (people, str(root / file)))
    root = data / 'bccd'
    return {stage: (dict(data_root=str(root), ann_file=f'{stage}.json', data_prefix=dict(img=f'{stage}/'),
                         metainfo=CELLS), str(root / f'{stage}.json')) for stage in ('train', 'val', 'test')}


def dense_config(network: Network, data: Path) -> Config:
    """Return OpenMMLab's config on our images: fewer classes, small images, a short schedule, no weights."""
    width, height = network.size
    small = {(1333, 800): (width, height), (640, 640): (width, height), (1280, 1280): (2 * width, 2 * height),
             (-320, -320): (-width // 2, -height // 2), (480, 800): (width, 2 * width)}
    values = replaced(plain(get_config(network.config)._cfg_dict), small if 'mmdet' in network.config else {})
    values = without(values, 'Albumentation')
    for stage, (dataset, file) in data_of(network, data).items():
        loader = values[f'{stage}_dataloader']
        loader.update(batch_size=8, num_workers=0, persistent_workers=False, pin_memory=False)
        inner = innermost(loader['dataset'])
        if dataset.get('_delete_'):
            pipeline = inner['pipeline']
            inner.clear()
            inner.update({key: value for key, value in dataset.items() if key != '_delete_'}, pipeline=pipeline)
        else:
            inner.update(dataset)
        if file and stage != 'train':
            values[f'{stage}_evaluator']['ann_file'] = file
    model = values['model']
    model.get('backbone', model).pop('init_cfg', None)
    if network.classifies:
        for stage in ('train', 'val', 'test'):
            for step in values[f'{stage}_dataloader']['dataset']['pipeline']:
                for key in ('scale', 'crop_size'):
                    if key in step:
                        step[key] = width
    if 'mmdet' in network.config:
        for head in find(model, 'num_classes'):
            head['num_classes'] = 3
        for settings in find(model.get('test_cfg') or {}, 'score_thr'):
            settings.update(score_thr=0.001, max_per_img=50)
        if 'roi_head' in model:
            model['train_cfg']['rcnn']['sampler']['num'] = 64  # regions of an image
        model['backbone'].update({key: value for key, value in (('frozen_stages', -1), ('norm_eval', False))
                                  if key in model['backbone']})
    if 'mmpose' in network.config:
        model['test_cfg']['flip_test'] = False
    values['train_cfg'].update(max_epochs=network.epochs, val_interval=network.epochs)
    values['train_cfg'].pop('dynamic_intervals', None)
    values['optim_wrapper']['optimizer']['lr'] = network.lr
    values.update(param_scheduler=[], tta_model=None, randomness=dict(seed=0))
    values['custom_hooks'] = [hook for hook in values.get('custom_hooks', ()) if 'Switch' not in hook['type']]
    values['default_hooks']['checkpoint'] = dict(type='CheckpointHook', interval=network.epochs)
    return Config(values)


def find(value: Any, key: str) -> List[Dict[str, Any]]:
    """Return the dicts that have a key, at any depth."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    found = [match for item in inner for match in find(item, key)]
    return [value, *found] if isinstance(value, dict) and key in value else found


def without(value: Any, kind: str) -> Any:
    """Return a config without the transforms of a kind, which need an optional package."""
    if isinstance(value, dict):
        return {key: without(item, kind) for key, item in value.items()}
    if isinstance(value, list):
        return [without(item, kind) for item in value if not (isinstance(item, dict) and item.get('type') == kind)]
    return value


class Road:
    """The stages of one network, in a folder of its own."""

    def __init__(self, name: str, folder: Path, data: Path, threads: int) -> None:
        self.name, self.network, self.data = name, NETWORKS[name], data
        self.folder = folder / re.sub(r'\W+', '_', name.lower())
        self.folder.mkdir(parents=True, exist_ok=True)
        self.environment = dict(os.environ, OMP_NUM_THREADS=str(threads), PYTHONWARNINGS='ignore')

    def stage(self, stage: str, tool: str, *arguments: Any) -> str:
        """Run a tool unless it has run; return its log. A failure ends the benchmark with the log's last lines."""
        log = self.folder / f'{stage}.log'
        if not log.exists():
            began = time.perf_counter()
            done = subprocess.run([sys.executable, f'tools/{tool}.py', *map(str, arguments)], cwd=ROOT, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.environment)
            if done.returncode:
                sys.exit(f'{self.name}, {stage}: status {done.returncode}\n' + done.stdout[-3000:])
            log.write_text(done.stdout)
            print(f'{self.name}, {stage}: status 0, {time.perf_counter() - began:.0f} s', flush=True)
        return log.read_text()

    def config(self, stage: str, text: str) -> Path:
        """Write the config of a stage; return its path."""
        path = self.folder / f'{stage}.py'
        path.write_text(text)
        return path

    def accuracy(self, log: str) -> float:
        """Return the last accuracy in a log."""
        found = re.findall(rf'{self.network.metric}: (-?[\d.]+)', log)
        if not found:
            sys.exit(f'{self.name} finds nothing in any image: train it longer')
        return float(found[-1])

    def walk(self) -> Dict[str, Any]:
        """Do all stages; return a row of the table."""
        network, folder = self.network, self.folder
        shape = (1, 3, network.size[1], network.size[0])
        last, target = f'epoch_{network.epochs}.pth', f'flops_{network.target:.2f}.pth'
        dense_config(network, self.data).dump(folder / 'dense.py')
        dense = self.accuracy(self.stage('dense', 'train', folder / 'dense.py', '--work-dir', folder / 'dense'))
        pruned = self.stage('prune', 'train', self.config('prune', PRUNE.format(
            checkpoint=str(folder / 'dense' / last), target=network.target, shape=shape, channels=network.channels,
            per='flops' if network.transformer else 'act', linear=network.transformer)),
            '--work-dir', folder / 'prune')
        finetune = self.config('finetune', FINETUNE.format(
            checkpoint=str(folder / 'prune' / target), lr=network.lr, epochs=network.epochs))
        self.stage('finetune', 'train', finetune, '--work-dir', folder / 'finetune')
        test = self.stage('test', 'test', finetune, folder / 'finetune' / last, '--work-dir', folder / 'test')
        deploy = self.config('deploy', DEPLOY.format(
            structure=str(folder / 'finetune/fix_subnet.json'), shape=shape, linear=network.transformer))
        exported = self.stage('deploy', 'deploy', f'configs/deploy/{network.deploy}', deploy,
                              folder / 'finetune' / last, self.image(), '--work-dir', folder / 'deploy',
                              '--rounds', 10)
        left = float(re.findall(r'flops are at ([\d.]+) of the dense model: wrote', pruned)[-1])
        return dict(network=self.name, dense=dense, left=left, finetuned=self.accuracy(test),
                    parity=float(re.findall(r'largest relative difference ([\d.e+-]+)', exported)[-1]),
                    equal=(re.findall(r'(\d+ of \d+) predictions are equal', exported) or ['scores'])[-1])

    def image(self) -> Path:
        """Return an image of the kind that the network has seen."""
        place = 'imagenet_sample' if self.network.classifies else \
            'pose_minicoco/images/train2017' if 'mmpose' in self.network.config else 'bccd/test'
        return next(path for path in sorted((self.data / place).iterdir()) if path.suffix.lower() in ('.jpg', '.jpeg'))


def table(rows: Sequence[Dict[str, Any]], command: str) -> str:
    """Return the markdown table."""
    import onnxruntime
    import torch
    lines = [f'`{command}`, {time.strftime("%Y-%m-%d")}, torch {torch.__version__}, onnxruntime '
             f'{onnxruntime.__version__}, {os.cpu_count()} cores, no GPU.', '',
             '| network | accuracy | dense | finetuned | FLOPs left (target) | predictions that are equal | '
             'largest difference |', '| --- | --- | ---: | ---: | ---: | ---: | ---: |']
    for row in rows:
        network = NETWORKS[row['network']]
        lines.append(f'| {row["network"]} | {network.metric} | {row["dense"]:.3f} | {row["finetuned"]:.3f} | '
                     f'{row["left"]:.3f} ({network.target}) | {row["equal"]} | {row["parity"]:.1e} |')
    return '\n'.join(lines)


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', required=True, type=Path, help='folder with the images')
    parser.add_argument('--work-dir', required=True, type=Path, help='where configs, logs and checkpoints go')
    parser.add_argument('--only', nargs='+', metavar='NAME', choices=NETWORKS, default=list(NETWORKS),
                        help=f'some of: {", ".join(NETWORKS)}')
    parser.add_argument('--threads', type=int, default=2, help='threads of each command (2)')
    parser.add_argument('--markdown', type=Path, help='write the table to this file')
    args = parser.parse_args(argv)
    rows = [Road(name, args.work_dir.resolve(), args.data.resolve(), args.threads).walk() for name in args.only]
    text = table(rows, 'python benchmarks/whole_road.py --data DATA --work-dir W')
    print(text)
    if args.markdown:
        args.markdown.write_text(text + '\n')


if __name__ == '__main__':
    run(main)
