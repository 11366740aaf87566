"""Trained networks with their data: what benchmarks of accuracy prune, calibrate with and test on.

A seed draws the images that a network is calibrated and repaired with; the test images are always the same.
"""
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import mmcv
import torch
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, load_checkpoint
from torch import Tensor, nn
from torch.nn import functional

from mmprune.config import plain
from mmprune.models.from_config import dense_config, read_config
from mmprune.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
Batches = List[Tuple[Tensor, Any]]


def drawn(count: int, of: int, seed: int) -> List[int]:
    """Return which of several images a seed draws."""
    return torch.randperm(of, generator=torch.Generator().manual_seed(seed))[:count].tolist()


class Images(NamedTuple):
    """Decoded images ``ByteTensor[N, 3, H, W]`` in RGB, and their classes ``LongTensor[N]``."""

    pixels: Tensor
    labels: Tensor

    @classmethod
    def read(cls, files: Sequence[Tuple[Path, int]], size: int) -> 'Images':
        """Decode files, each with its class, and take a square of so many pixels from the middle of each."""
        if not files:
            raise FileNotFoundError('there are no images: see --data')
        pixels = [torch.from_numpy(_centre(mmcv.imread(str(path), channel_order='rgb'), size)) for path, _ in files]
        return cls(torch.stack(pixels).permute(0, 3, 1, 2).contiguous(), torch.tensor([label for _, label in files]))


def _centre(image: Any, size: int) -> Any:
    top, left = ((side - size) // 2 for side in image.shape[:2])
    return image[top:top + size, left:left + size]


class Classifier:
    """A classifier, and images with their classes.

    Args:
        checkpoint (Path): Of the dense network.
        data (Path): Folder of the data sets.
    """

    name: str
    shape: Tuple[int, int, int, int]
    #: Of the pixels, by channel.
    mean: Tuple[float, float, float]
    std: Tuple[float, float, float]
    batch = 25
    metrics = ('top-1', 'loss')

    def __init__(self, checkpoint: Path, data: Path) -> None:
        self.checkpoint, self.data = checkpoint, data

    def model(self) -> nn.Module:
        """Return the dense network."""
        raise NotImplementedError

    def calibration_files(self, seed: int) -> List[Tuple[Path, int]]:
        """Return the images that a seed draws, each with its class."""
        raise NotImplementedError

    def test_files(self) -> List[Tuple[Path, int]]:
        """Return the images that are tested, each with its class."""
        raise NotImplementedError

    def calibration(self, seed: int) -> Batches:
        """Return the batches that a seed draws."""
        return self._batches(self.calibration_files(seed))

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        """Return the mean cross entropy."""
        return functional.cross_entropy(outputs, labels)

    def judged(self, model: nn.Module) -> Dict[str, float]:
        """Return top-1 accuracy in per cent and mean cross entropy on the test images."""
        model.eval()
        with torch.no_grad():
            pairs = [(model(inputs), labels) for inputs, labels in self._batches(self.test_files())]
        outputs, labels = (torch.cat(parts) for parts in zip(*pairs))
        return {'top-1': 100 * float((outputs.argmax(1) == labels).double().mean()),
                'loss': float(self.loss(outputs, labels))}

    def _batches(self, files: Sequence[Tuple[Path, int]]) -> Batches:
        images = Images.read(files, self.shape[-1])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return [(((pixels.float() - mean) / std).contiguous(memory_format=torch.channels_last), labels)
                for pixels, labels in zip(images.pixels.split(self.batch), images.labels.split(self.batch))]


class MobileNetV2(Classifier):
    """torchvision's MobileNetV2 and a sample of ImageNet: one half of the classes calibrates, the other is tested."""

    name, shape = 'mobilenet-v2', (1, 3, 224, 224)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    images = 400

    def model(self) -> nn.Module:
        """Return the dense network."""
        from torchvision.models import mobilenet_v2
        model = mobilenet_v2()
        model.load_state_dict(torch.load(self.checkpoint, map_location='cpu', weights_only=True))
        return model.eval().to(memory_format=torch.channels_last)

    def _files(self, start: int) -> List[Tuple[Path, int]]:
        folder = self.data / 'imagenet_sample'
        rows = [line.split() for line in (folder / 'meta.txt').read_text().splitlines()]
        return [(folder / name, int(label)) for name, label in rows[start::2]]

    def calibration_files(self, seed: int) -> List[Tuple[Path, int]]:
        """Return some of the even images."""
        files = self._files(0)
        return [files[number] for number in drawn(self.images, len(files), seed)]

    def test_files(self) -> List[Tuple[Path, int]]:
        """Return the odd images."""
        return self._files(1)


class NarrowResNet18(Classifier):
    """The narrow ResNet-18 of the configs on CIFAR-10 as a folder of images."""

    name, shape = 'resnet18-narrow', (1, 3, 32, 32)
    mean, std = (125.307, 122.961, 113.8575), (51.5865, 50.847, 51.255)
    images, batch = 1024, 128

    def model(self) -> nn.Module:
        """Return the dense network."""
        return from_config(CONFIGS / 'mmcls/cifar10/resnet18-narrow_cifar10.py', 'mmcls', self.checkpoint)

    def _files(self, split: str) -> List[Tuple[Path, int]]:
        classes = sorted(path for path in (self.data / 'cifar10' / split).iterdir() if path.is_dir())
        return [(path, number) for number, folder in enumerate(classes) for path in sorted(folder.glob('*.jpg'))]

    def calibration_files(self, seed: int) -> List[Tuple[Path, int]]:
        """Return some of the training images."""
        files = self._files('train')
        return [files[number] for number in drawn(self.images, len(files), seed)]

    def test_files(self) -> List[Tuple[Path, int]]:
        """Return the test images."""
        return self._files('test')


def from_config(path: Path, scope: str, checkpoint: Path) -> nn.Module:
    """Return the dense network of a config with the weights of a checkpoint."""
    init_default_scope(scope)
    model = MODELS.build(ConfigDict(dense_config(read_config(str(path)))[0]))
    load_checkpoint(model, str(checkpoint), map_location='cpu')
    return model.eval().to(memory_format=torch.channels_last)


class YOLOXTiny:
    """YOLOX-tiny of the configs on blood cells.

    Args:
        checkpoint (Path): Of the dense network.
        data (Path): Folder of the data sets.
    """

    name, shape = 'yolox-tiny', (1, 3, 160, 160)
    metrics = ('AP', 'AP50', 'loss')
    images, batch = 160, 8

    def __init__(self, checkpoint: Path, data: Path) -> None:
        self.checkpoint, self.data = checkpoint, data
        self.path = CONFIGS / 'mmdet/bccd/yolox-tiny_bccd.py'
        self.head: Any = None

    def config(self) -> Config:
        """Return the config, with this data."""
        cfg = read_config(str(self.path))
        for key in ('train', 'val', 'test'):
            loader = cfg[f'{key}_dataloader']
            dataset = loader.dataset.dataset if key == 'train' else loader.dataset
            dataset.data_root = str(self.data / 'bccd')
        cfg.test_evaluator.ann_file = str(self.data / 'bccd/test.json')
        return cfg

    def model(self) -> nn.Module:
        """Return the dense network."""
        model: Any = from_config(self.path, 'mmdet', self.checkpoint)
        self.head, self.preprocessor = model.bbox_head, model.data_preprocessor
        return model

    def _batches(self, split: str) -> Batches:
        """Return batches of a split as a test sees them: images, and instances and sizes of each."""
        cfg = plain(self.config().test_dataloader)
        cfg.update(batch_size=self.batch, num_workers=0, persistent_workers=False)
        cfg['dataset'].update(ann_file=f'{split}.json', data_prefix=dict(img=f'{split}/'), test_mode=True)
        found = []
        for data in Runner.build_dataloader(cfg, seed=0):
            data = self.preprocessor(data, False)
            found.append((data['inputs'], data['data_samples']))
        return found

    def calibration(self, seed: int) -> Batches:
        """Return the training images that a seed draws, in batches."""
        batches = self._batches('train')
        inputs, samples = torch.cat([one for one, _ in batches]), [one for _, several in batches for one in several]
        some = drawn(self.images, len(samples), seed)
        return [(inputs[part], [samples[number] for number in part])
                for part in (some[start:start + self.batch] for start in range(0, len(some), self.batch))]

    def loss(self, outputs: Any, samples: Sequence[Any]) -> Tensor:
        """Return the sum of the head's losses."""
        found = self.head.loss_by_feat(*outputs, [one.gt_instances for one in samples],
                                       [one.metainfo for one in samples])
        return sum(found.values())

    def judged(self, model: nn.Module) -> Dict[str, float]:
        """Return AP and AP50 in per cent, and the mean of the losses over batches, on the test images."""
        cfg = self.config()
        loader = plain(cfg.test_dataloader)
        loader.update(num_workers=0, persistent_workers=False)
        evaluator = Evaluator(plain(cfg.test_evaluator))
        model.eval()
        with torch.no_grad():
            loader = Runner.build_dataloader(loader, seed=0)
            evaluator.dataset_meta = loader.dataset.metainfo
            for batch in loader:
                evaluator.process(data_samples=model.test_step(batch), data_batch=batch)
            losses = [float(self.loss(model(inputs), samples)) for inputs, samples in self._batches('test')]
        found = evaluator.evaluate(len(loader.dataset))  # empty where no box is found at all
        return {'AP': 100 * found.get('coco/bbox_mAP', 0.0), 'AP50': 100 * found.get('coco/bbox_mAP_50', 0.0),
                'loss': sum(losses) / len(losses)}


NETWORKS = {network.name: network for network in (MobileNetV2, NarrowResNet18, YOLOXTiny)}
