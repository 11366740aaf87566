"""Trained networks with their data: what benchmarks of accuracy prune, calibrate with and test on.

A seed draws the images that a network is calibrated and repaired with; the test images are always the same.
"""
import copy
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import torch
from computing import Computing
from mmengine.config import ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint
from repair_table import Cifar, ImageNetSample
from torch import Tensor, nn
from torch.nn import functional

from mmprune.config import plain
from mmprune.models.from_config import dense_config, read_config
from mmprune.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
Batches = List[Tuple[Tensor, Any]]


def drawn(count: int, of: int, seed: int) -> Tensor:
    """Return ``LongTensor[count]``, which of several images a seed draws."""
    return torch.randperm(of, generator=torch.Generator().manual_seed(seed))[:count]


class Classifier:
    """A classifier, and images with their classes.

    Args:
        source: The dense network and its images, of ``repair_table``.
    """

    def __init__(self, source: Any) -> None:
        self.source, self.name, self.shape = source, source.name, source.shape
        self.mutate_linear: bool = source.mutate_linear

    def model(self) -> nn.Module:
        """Return the dense network."""
        return copy.deepcopy(self.source.model).eval().to(memory_format=torch.channels_last)

    def calibration(self, seed: int) -> Batches:
        """Return the batches that a seed draws, images and classes."""
        raise NotImplementedError

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        """Return the mean cross entropy."""
        return functional.cross_entropy(outputs, labels)

    def judged(self, model: nn.Module) -> Dict[str, float]:
        """Return top-1 accuracy in per cent and mean cross entropy on the test images."""
        model.eval()
        with torch.no_grad():
            pairs = [(model(inputs), labels) for inputs, labels in self.source.test(0)]
        outputs, labels = (torch.cat(parts) for parts in zip(*pairs))
        return {'top-1': 100 * float((outputs.argmax(1) == labels).double().mean()),
                'loss': float(self.loss(outputs, labels))}


class MobileNetV2(Classifier):
    """torchvision's MobileNetV2: of the ImageNet sample one half of the classes calibrates, the other is tested."""

    images = 400

    def __init__(self) -> None:
        super().__init__(ImageNetSample(Computing()))

    def calibration(self, seed: int) -> Batches:
        """Return some of the even images, in batches."""
        every = [torch.cat(parts) for parts in zip(*self.source.calibration(0, 500))]
        some = drawn(self.images, len(every[1]), seed)
        return [(every[0][part].contiguous(memory_format=torch.channels_last), every[1][part])
                for part in some.split(25)]


class NarrowResNet18(Classifier):
    """The narrow ResNet-18 of the configs on CIFAR-10."""

    images = 1024

    def __init__(self) -> None:
        super().__init__(Cifar(Computing()))

    def calibration(self, seed: int) -> Batches:
        """Return some of the training images, in batches."""
        return self.source.calibration(seed, self.images)


class YOLOXTiny:
    """YOLOX-tiny of the configs on blood cells."""

    name, shape = 'yolox-tiny', (1, 3, 160, 160)
    images, batch, mutate_linear = 160, 8, True

    def __init__(self) -> None:
        init_default_scope('mmdet')
        self.cfg = read_config(str(ROOT / 'configs/mmdet/bccd/yolox-tiny_bccd.py'))
        self.checkpoint = ROOT / 'work_dirs/yolox-tiny_bccd/epoch_24.pth'
        dense: Any = self.model()
        self.head, self.preprocessor = dense.bbox_head, dense.data_preprocessor

    def model(self) -> nn.Module:
        """Return the dense network."""
        model: nn.Module = MODELS.build(ConfigDict(dense_config(self.cfg)[0]))
        load_checkpoint(model, str(self.checkpoint), map_location='cpu')
        return model.eval().to(memory_format=torch.channels_last)

    def _loader(self, split: str) -> Any:
        """Return the loader of a split, as a test sees it."""
        cfg = plain(self.cfg.test_dataloader)
        cfg.update(batch_size=self.batch, num_workers=0, persistent_workers=False)
        cfg['dataset'].update(ann_file=f'{split}.json', data_prefix=dict(img=f'{split}/'), test_mode=True)
        return Runner.build_dataloader(cfg, seed=0)

    def _batches(self, split: str) -> Batches:
        """Return batches of a split: images, and instances and sizes of each."""
        several = [self.preprocessor(data, False) for data in self._loader(split)]
        return [(data['inputs'], data['data_samples']) for data in several]

    def calibration(self, seed: int) -> Batches:
        """Return the training images that a seed draws, in batches."""
        batches = self._batches('train')
        inputs, samples = torch.cat([one for one, _ in batches]), [one for _, several in batches for one in several]
        return [(inputs[part], [samples[number] for number in part])
                for part in drawn(self.images, len(samples), seed).split(self.batch)]

    def loss(self, outputs: Any, samples: Sequence[Any]) -> Tensor:
        """Return the sum of the head's losses."""
        found = self.head.loss_by_feat(*outputs, [one.gt_instances for one in samples],
                                       [one.metainfo for one in samples])
        return torch.stack([*found.values()]).sum()

    def judged(self, model: nn.Module) -> Dict[str, float]:
        """Return AP and AP50 in per cent, and the mean of the losses over batches, on the test images."""
        loader, evaluator = self._loader('test'), Evaluator(plain(self.cfg.test_evaluator))
        evaluator.dataset_meta = loader.dataset.metainfo
        model.eval()
        with torch.no_grad():
            for batch in loader:
                evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
            losses = [float(self.loss(model(inputs), samples)) for inputs, samples in self._batches('test')]
        found = evaluator.evaluate(len(loader.dataset))  # empty where no box is found at all
        return {'AP': 100 * found.get('coco/bbox_mAP', 0.0), 'AP50': 100 * found.get('coco/bbox_mAP_50', 0.0),
                'loss': sum(losses) / len(losses)}


#: Only the one that is asked for loads its images.
NETWORKS = {'mobilenet-v2': MobileNetV2, 'resnet18-narrow': NarrowResNet18, 'yolox-tiny': YOLOXTiny}
