"""The adapter for ultralytics on a small network of the same build, and what it says where ultralytics is missing."""
import ast
import importlib
import re
import sys
import types

import numpy as np
import pytest
import torch
from paths import ROOT
from torch import nn

import mmprune
from mmprune.arguments import MissingPackageError, UserError

ADAPTER = 'mmprune.integrations.ultralytics'
SIZE = 32


class Conv(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x):
        return nn.functional.silu(self.bn(self.conv(x)))


class Halves(nn.Module):
    """Two halves of a convolution, of which one is refined: by share in forward, by width where it is exported."""

    def __init__(self, inputs, width):
        super().__init__()
        self.c, self.cv1 = width, Conv(inputs, 2 * width)
        self.m, self.cv2 = Conv(width, width), Conv(3 * width, inputs)

    def forward(self, x):
        return self._joined(*self.cv1(x).chunk(2, 1))

    def forward_split(self, x):
        return self._joined(*self.cv1(x).split((self.c, self.c), 1))

    def _joined(self, first, second):
        return self.cv2(torch.cat([first, second, self.m(second)], 1))


class Distances(nn.Module):
    """Expected values of four distributions over bins, by a convolution with a constant weight."""

    def __init__(self, bins):
        super().__init__()
        self.bins, self.conv = bins, nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data = torch.arange(float(bins)).view(1, bins, 1, 1)

    def forward(self, x):
        return self.conv(x.view(len(x), 4, self.bins, -1).transpose(1, 2).softmax(1)).view(len(x), 4, -1)


class Head(nn.Module):
    def __init__(self, inputs, classes, bins=4):
        super().__init__()
        self.nc, self.dfl = classes, Distances(bins)
        self.cv2 = nn.Sequential(Conv(inputs, 8), nn.Conv2d(8, 4 * bins, 1))
        self.cv3 = nn.Sequential(Conv(inputs, 8), nn.Conv2d(8, classes, 1))

    def forward(self, x):
        raw = dict(boxes=self.cv2(x).flatten(2), scores=self.cv3(x).flatten(2), feats=[x])
        return raw if self.training else (torch.cat([self.dfl(raw['boxes']), raw['scores'].sigmoid()], 1), raw)


class Network(nn.Module):
    def __init__(self, classes=2):
        super().__init__()
        self.model = nn.Sequential(Conv(3, 8, 2), Conv(8, 16, 2), Halves(16, 8), Head(16, classes))
        self.yaml, self.args = dict(backbone=[[-1, 1, 'Conv', [8]]], head=[]), dict(imgsz=SIZE)
        self.stride, self.names = torch.tensor([4.0]), ['a', 'b']

    def forward(self, x):
        return self.model(x)

    def is_fused(self):
        return False

    def info(self, verbose):
        return None


class Yolo:
    def __init__(self):
        self.model, self.task, self.ckpt, self.predictor = Network(), 'detect', {}, object()


class Trainer:
    def __init__(self, classes=2):
        self.data = dict(nc=classes)


def dataset(path, autodownload):
    assert not autodownload
    raise FileNotFoundError(f'Dataset {path} not found')


@pytest.fixture
def adapter(monkeypatch):
    """The adapter over modules of the same names as those of ultralytics."""
    inside = {'data.augment': dict(LetterBox=lambda size, auto: lambda image: image),
              'data.utils': dict(IMG_FORMATS={'png'}, check_det_dataset=dataset),
              'models.yolo.detect': dict(DetectionTrainer=Trainer), 'models.yolo.pose': dict(PoseTrainer=Trainer),
              'models.yolo.segment': dict(SegmentationTrainer=Trainer)}
    names = {'ultralytics', *(f'ultralytics.{".".join(name.split(".")[:end])}' for name in inside for end in (1, 2, 3))}
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name, members in inside.items():
        vars(sys.modules[f'ultralytics.{name}']).update(members)
    with alone():
        yield importlib.import_module(ADAPTER)


class alone:  # noqa: N801
    """No module of the adapter is loaded before or after the block."""

    def __enter__(self):
        self.before = {name: sys.modules.pop(name) for name in [*sys.modules] if name.startswith(ADAPTER)}

    def __exit__(self, *error):
        for name in [name for name in sys.modules if name.startswith(ADAPTER)]:
            del sys.modules[name]
        sys.modules.update(self.before)


def images(count=12):
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'ultralytics', None)
    with alone(), pytest.raises(MissingPackageError, match='^ultralytics is not installed: pip install ultralytics$'):
        importlib.import_module(ADAPTER)


@pytest.mark.parametrize('criterion', ['L1', 'GroupFisher', 'Taylor'])
def test_prunes_what_the_head_reads_and_nothing_of_its_decoder(adapter, criterion):
    yolo = Yolo()
    decoder, names = yolo.model.model[-1].dfl, set(yolo.model.state_dict())
    pruned = adapter.prune(yolo, dict(flops=0.5), criterion, images=images(), rounds=2)
    mutator = pruned.pruner.mutator
    assert mutator.cost['macs'] <= 0.5 * mutator.complexity.cost({})['macs']
    assert {unit.name for unit in mutator.units} >= {'model.2.cv2.conv_(0, 16)_16'}
    assert len(pruned.repairs) == 2
    assert set(yolo.model.state_dict()) == names, 'a repair added no parameter'
    assert yolo.model.model[-1].dfl is decoder
    assert decoder.conv.weight.flatten().tolist() == [0, 1, 2, 3]
    assert not decoder.conv.weight.requires_grad
    assert all(p.requires_grad for name, p in yolo.model.named_parameters() if '.dfl' not in name)
    assert not yolo.model.model[-1]._forward_hooks
    whole, raw = yolo.model.eval()(images(1))
    assert whole.shape == (1, 6, 64)
    assert set(raw) == {'boxes', 'scores', 'feats'}
    halves = yolo.model.model[2]
    x = torch.rand(1, halves.cv1.conv.in_channels, 4, 4)
    assert torch.equal(halves(x), halves.forward_split(x)), 'the width that is written down follows'


def test_structure_cuts_a_fresh_one(adapter, tmp_path):
    yolo, fresh = Yolo(), Yolo()
    pruned = adapter.prune(yolo, dict(flops=0.5), 'L1')
    assert not pruned.repairs
    mmprune.save_structure(pruned.pruner, tmp_path / 'structure.json')
    network = adapter.cut_to(fresh, str(tmp_path / 'structure.json'))
    network.load_state_dict(yolo.model.state_dict())
    assert torch.equal(network.eval()(images(1))[0], yolo.model.eval()(images(1))[0])


def test_trainer_trains_a_copy_of_the_pruned_network(adapter):
    yolo = Yolo()
    adapter.prune(yolo, dict(flops=0.5), 'L1')
    assert yolo.ckpt['model'] is yolo.model, 'so that its weights are handed to the trainer'
    assert yolo.predictor is None
    assert 'trainer_for' in yolo.model.yaml['backbone'][0][2], 'what would build the dense network meets this'
    trainer = adapter.trainer_for(yolo)()
    copied = trainer.get_model('x.yaml', yolo.model, verbose=False)
    assert copied is not yolo.model
    for (name, ours), theirs in zip(copied.named_parameters(), yolo.model.parameters()):
        assert torch.equal(ours, theirs)
        assert ours is not theirs
        assert ours.requires_grad == ('.dfl' not in name)
    with pytest.raises(UserError, match='^PrunedDetectionTrainer trains the network that it starts from, and has none'):
        trainer.get_model('x.yaml')
    with pytest.raises(UserError, match='^the pruned network predicts 2 classes, and the data has 3: train the dense '):
        adapter.trainer_for(yolo)(3).get_model('x.yaml', yolo.model)
    yolo.task = 'classify'
    with pytest.raises(UserError, match="^the task of this YOLO is 'classify'; .* for detect, segment, pose$"):
        adapter.trainer_for(yolo)


def test_mistakes_are_one_line(adapter, tmp_path):
    yolo = Yolo()
    for values, message in [
            (dict(imgsz=30), '^imgsz is 30; it must be a multiple of 4, the stride of the network$'),
            (dict(imgsz=0), '^imgsz is 0; it must be a whole number from 1 to 8,192$'),
            (dict(criterion='GroupFisher'), '^GroupFisher scores channels by images: give images='),
            (dict(images=str(tmp_path / 'none')), 'none.*, which is no file or folder$'),
            (dict(images='none.yaml'), "^images is 'none.yaml', and the dataset cannot be used: Dataset none.yaml not"),
            (dict(images=[]), '^there are no images: the list or loader is empty$'),
            (dict(images=str(tmp_path)), '^there are no images in the files and folders that were given$'),
            (dict(images=[1]), '^images has 1; it must be tensors of images'),
            (dict(images=np.zeros((1, 3, 8, 8))), r'^images has a tensor of shape|^images has array'),
            (dict(rounds=-1), "^rounds is -1; it must be 'auto' or a whole number of 0 or more$"),
            (dict(most_images=0), '^most_images is 0; it must be a whole number of 2 or more$'),
            (dict(target=1), '^prune: target is 1; it must be a dict')]:
        with pytest.raises(UserError, match=message):
            adapter.prune(yolo, **{**dict(target=dict(flops=0.5), criterion='L1'), **values})
    with pytest.raises(UserError, match="^yolo is 'yolo11n.pt'; it must be a YOLO of ultralytics"):
        adapter.prune('yolo11n.pt', dict(flops=0.5))


def test_images_come_from_tensors_and_loaders(adapter):
    of = importlib.import_module(f'{ADAPTER}.images').images_of
    given = images(6)
    assert torch.equal(of(given, SIZE, 4), given[:4])
    assert torch.equal(of(given, SIZE, 4), of([given[:3], given[3:]], SIZE, 4))
    assert torch.equal(of([(given[:3], 'labels')], SIZE, 4), given[:3])
    bytes_ = (given * 255).byte()
    assert torch.equal(of([dict(img=bytes_)], SIZE, 9), bytes_ / 255)


def test_names_of_the_page_exist():
    page = (ROOT / 'docs' / 'ultralytics.md').read_text()
    door = ast.parse((ROOT / 'mmprune' / 'integrations' / 'ultralytics' / '__init__.py').read_text())
    names = {alias.name for node in door.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    used = [alias.name for code in re.findall(r'```py\n(.*?)```', page, re.S) for node in ast.walk(ast.parse(code))
            if isinstance(node, ast.ImportFrom) and node.module == ADAPTER for alias in node.names]
    assert used
    assert set(used) <= names
