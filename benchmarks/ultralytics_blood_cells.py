"""YOLO models of ultralytics on blood cells: trained from their yaml, pruned to half of their multiply-adds, finetuned.

MMPRUNE_DATA=... python benchmarks/ultralytics_blood_cells.py yolo11n yolov8n --work W
MMPRUNE_DATA=... python benchmarks/ultralytics_blood_cells.py yolo11n --work W --only dense --seconds 150

Needs ultralytics. Every stage writes W/MODEL/STAGE.json and is not run again; a training that was interrupted, such as
by --seconds, goes on where it was. At the end all stages are printed as a table: mAP of the 72 test images, by
ultralytics' own validator.
"""
import argparse
import json
import os
import time
from pathlib import Path
from typing import Any, Dict, List

os.environ.update(YOLO_AUTOINSTALL='false', YOLO_OFFLINE='true')

import numpy as np
import torch
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

import mmprune
from mmprune.command_line import device, run
from mmprune.files import write_text
from mmprune.integrations.ultralytics import cut_to, prune, trainer_for
from mmprune.units.equivalence import relative_difference

SPLITS, CLASSES, SIZE = ('train', 'val', 'test'), 3, 192
#: What all trainings have in common: no network, and the same order of images.
COMMON: Dict[str, Any] = dict(
    imgsz=SIZE, batch=8, nbs=8, optimizer='AdamW', cos_lr=True, val=False, workers=0, cache='ram',
    plots=False, seed=0, exist_ok=True, verbose=False)
#: Of the dense networks; mosaics, which show cells smaller than they are, end halfway.
EPOCHS = dict(yolov8n=50)
FINETUNE = dict(epochs=8, lr0=0.0005, close_mosaic=8)
STAGES = ('dense', 'pruned', 'finetuned', 'check')


def prepared(folder: Path) -> str:
    """Return the yaml of the data, after writing it with its labels, in YOLO's format, and links to the images."""
    source, yaml = Path(os.environ['MMPRUNE_DATA']).resolve() / 'bccd', folder / 'bccd.yaml'
    for split in SPLITS:
        coco = json.loads((source / f'{split}.json').read_text())
        names = {str(one['id'] - 1): one['name'] for one in coco['categories']}
        for kind in ('labels', 'images'):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for image in coco['images']:
            link = folder / 'images' / split / image['file_name']
            if not link.is_symlink():
                link.symlink_to(source / split / image['file_name'])
            boxes = [one for one in coco['annotations'] if one['image_id'] == image['id']]
            lines = [label(one['category_id'] - 1, one['bbox'], image['width'], image['height']) for one in boxes]
            (folder / 'labels' / split / f'{Path(image["file_name"]).stem}.txt').write_text('\n'.join([*lines, '']))
    yaml.write_text(json.dumps(dict(path=str(folder.resolve()), names=names,
                                    **{split: f'images/{split}' for split in SPLITS})))
    return str(yaml)


def label(category: int, box: List[float], width: int, height: int) -> str:
    """Return a line of a label file for a box ``x, y, w, h`` in pixels."""
    x, y, w, h = box
    return f'{category} {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} {w / width:.6f} {h / height:.6f}'


class Road:
    """The stages of one model.

    Args:
        name (str): Such as ``yolo11n``.
        work (Path): Folder of all models.
        end (float): When no further epoch begins.
        computing (dict): Where it is trained, and whether in mixed precision, as ultralytics takes it.
    """

    def __init__(self, name: str, work: Path, end: float, computing: Dict[str, Any]) -> None:
        self.name, self.folder, self.end, self.computing = name, (work / name).resolve(), end, computing
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = prepared(work / 'data')

    def run(self, stage: str) -> None:
        """Run a stage, unless its file is there."""
        path = self.folder / f'{stage}.json'
        if path.exists():
            return
        write_text(json.dumps(getattr(self, stage)()), str(path))

    def dense(self) -> Dict[str, Any]:
        """Train from the yaml."""
        epochs = EPOCHS.get(self.name, 80)
        yolo = self._trained('dense', f'{self.name}.yaml', dict(epochs=epochs, lr0=0.002, close_mosaic=epochs // 2))
        return self._tested(yolo)

    def pruned(self) -> Dict[str, Any]:
        """Prune to half of the multiply-adds and repair in rounds; write the three files that hold the result."""
        torch.manual_seed(0)
        yolo = YOLO(self.folder / 'dense' / 'weights' / 'best.pt')
        pruned = prune(yolo, dict(flops=0.5), 'GroupFisher', images=self.data, rounds=3, imgsz=SIZE, most_images=40)
        mmprune.save_structure(pruned.pruner, self.folder / 'structure.json')
        torch.save(yolo.model.state_dict(), self.folder / 'pruned.pth')
        yolo.save(self.folder / 'pruned.pt')
        print(pruned.pruner.report())
        cost, dense = pruned.pruner.mutator.cost, pruned.pruner.mutator.complexity.cost({})
        return {**self._tested(yolo), **{key: cost[key] / dense[key] for key in ('macs', 'params')},
                'rounds': len(pruned.repairs), 'error': [pruned.repairs[0].before, pruned.repairs[-1].after]}

    def finetuned(self) -> Dict[str, Any]:
        """Train the pruned network by ultralytics' trainer."""
        return self._tested(self._trained('finetuned', str(self.folder / 'pruned.pt'), FINETUNE))

    def check(self) -> Dict[str, Any]:
        """Compare what comes out of the files with what went in, and the exported file with the network."""
        x = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        ours = YOLO(f'{self.name}.yaml')
        ours.model = DetectionModel(f'{self.name}.yaml', nc=CLASSES, verbose=False)
        cut_to(ours, str(self.folder / 'structure.json'), SIZE)
        kept = torch.load(self.folder / 'pruned.pth', weights_only=True)
        ours.model.load_state_dict(kept)
        half = outputs(YOLO(self.folder / 'pruned.pt').model, x)
        finetuned = YOLO(self.folder / 'finetuned' / 'weights' / 'best.pt')
        again = outputs(ours.model, x)
        ours.model.load_state_dict(finetuned.model.state_dict())
        found = dict(half_file=relative_difference(again, half),
                     our_file=float(not all(map(torch.equal, outputs(ours.model, x), outputs(finetuned.model, x)))))
        exported = {name: YOLO(self.folder / name / 'weights' / 'best.pt').export(
            format='onnx', imgsz=SIZE, device='cpu', simplify=False) for name in ('dense', 'finetuned')}
        return {**found, **onnx_check(finetuned, exported, x[:1]),
                **{f'onnx_{key}': value for key, value in self._tested(YOLO(exported['finetuned'])).items()}}

    def _trained(self, stage: str, start: str, settings: Dict[str, Any]) -> Any:
        """Train, or go on with a training that was interrupted, and return the YOLO of the best epoch's file."""
        last = self.folder / stage / 'weights' / 'last.pt'
        resume = last.exists() and YOLO(last).ckpt.get('epoch', -1) >= 0
        done = last.exists() and not resume
        if not done:
            yolo = YOLO(last if resume else start)
            yolo.add_callback('on_model_save', self._stop)
            trainer = {} if stage == 'dense' else dict(trainer=trainer_for(yolo))
            yolo.train(**trainer, **(dict(resume=True) if resume else dict(
                COMMON, **settings, **self.computing, data=self.data, project=str(self.folder), name=stage)))
        return YOLO(last.with_name('best.pt'))

    def _stop(self, trainer: Any) -> None:
        if time.time() > self.end and trainer.epoch + 1 < trainer.epochs:
            raise SystemExit(f'{self.name}: {trainer.epoch + 1} epochs of {trainer.epochs} are done')

    def _tested(self, yolo: Any) -> Dict[str, Any]:
        found = yolo.val(data=self.data, split='test', imgsz=SIZE, batch=1, rect=False, workers=0, plots=False,
                         verbose=False, device=self.computing['device'], project=str(self.folder), name='val',
                         exist_ok=True)
        return dict(map50=float(found.box.map50), map=float(found.box.map), of_classes=found.box.ap50.tolist())


def outputs(network: Any, x: torch.Tensor) -> List[torch.Tensor]:
    """Return what a network predicts in eval mode, decoded and raw, without the feature maps that its head read."""
    with torch.no_grad():
        decoded, raw = network.eval()(x)
    return [decoded, raw['boxes'], raw['scores']]


def onnx_check(yolo: Any, files: Dict[str, str], x: torch.Tensor) -> Dict[str, Any]:
    """Return the difference of an exported network's outputs, and the milliseconds of both files, in turns."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {name: onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
                for name, path in files.items()}
    feed = {sessions['finetuned'].get_inputs()[0].name: x.numpy()}
    got = torch.from_numpy(sessions['finetuned'].run(None, feed)[0])
    spent: Dict[str, List[float]] = {name: [] for name in sessions}
    for turn in range(120):
        for name, session in sessions.items():
            began = time.perf_counter()
            session.run(None, feed)
            if turn >= 20:
                spent[name].append(1000 * (time.perf_counter() - began))
    medians = {f'{name}_ms': float(np.median(times)) for name, times in spent.items()}
    return {'onnx': relative_difference([outputs(yolo.model, x)[0]], [got]), **medians}


def table(names: List[str], work: Path) -> str:
    """Return the results that are there, in Markdown."""
    lines = ['| model | stage | mAP50 | mAP50-95 | multiply-adds | parameters |',
             '| --- | --- | ---: | ---: | ---: | ---: |']
    checks = []
    for name in names:
        found = {stage: json.loads((work / name / f'{stage}.json').read_text()) for stage in STAGES
                 if (work / name / f'{stage}.json').exists()}
        shares = [f'{found.get("pruned", {}).get(key, 1):.1%}' for key in ('macs', 'params')]
        lines += [f'| {name} | {stage} | {one["map50"]:.3f} | {one["map"]:.3f} | '
                  f'{" | ".join(["100%"] * 2 if stage == "dense" else shares)} |'
                  for stage, one in found.items() if stage != 'check']
        checks += [f'{name}: {key} {value}' for key, value in found.get('check', {}).items()]
    return '\n'.join([*lines, '', *checks])


def main(arguments: Any = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('models', nargs='+', help='such as yolo11n')
    parser.add_argument('--work', type=Path, required=True, help='folder of the results')
    parser.add_argument('--seconds', type=float, default=float('inf'),
                        help='end a training after these, once an epoch is over; the same command goes on')
    parser.add_argument('--only', nargs='+', choices=STAGES, default=STAGES, help='stages')
    parser.add_argument('--device', type=device, default='cpu', help='where it is trained and tested (cpu)')
    parser.add_argument('--amp', action='store_true', help="train with ultralytics' mixed precision")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    began = time.time()
    for name in args.models:
        road = Road(name, args.work, began + args.seconds, dict(device=args.device, amp=args.amp))
        for stage in STAGES:
            if stage in args.only:
                road.run(stage)
    print(table(args.models, args.work))


if __name__ == '__main__':
    run(main)
