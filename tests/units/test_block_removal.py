"""Whole residual blocks go, their shortcuts stay: found, masked, cut, saved, loaded, deployed."""
import copy
import json

import numpy as np
import pytest
import torch
from digits_runs import INPUT_SHAPE
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope
from schedule_runs import make_folder, run, state_of, write_config  # noqa: F401 (a fixture)
from torch import nn
from torch.nn import functional as F  # noqa: N812
from toy_nets import Residual, ToyClassifier, algorithm_of, randomise

import mmprune
from mmprune.units.block_removal import Shortcut
from mmprune.units.counted_macs import counted_macs
from mmprune.units.mutator import ChannelMutator
from mmprune.units.structure import StructureError

X = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Basic(nn.Module):
    def __init__(self, width_in, width, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        same = stride == 1 and width_in == width
        self.downsample = None if same else nn.Sequential(nn.Conv2d(width_in, width, 1, stride), nn.BatchNorm2d(width))

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


class Linear(nn.Module):
    """An inverted residual: no activation behind the sum, and a norm behind the last layer only."""

    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, 12, 1), nn.ReLU6(), nn.Conv2d(12, 12, 3, 1, 1, groups=12), nn.ReLU6(),
            nn.Conv2d(12, width, 1), nn.BatchNorm2d(width))

    def forward(self, x):
        return x + self.layers(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8)
        self.blocks = nn.ModuleList([Basic(8, 8), Basic(8, 10, 2), Basic(10, 10), Linear(10)])
        self.plain = nn.Conv2d(10, 6, 1)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.fc(F.relu(self.plain(x)).mean((2, 3)))


def dense():
    return randomise(Net()).double().eval()


def mutator_of(model):
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True),
                             dict(type='DemoInput', input_shape=(1, 3, 8, 8)))
    mutator.prepare(model)
    return mutator


def test_blocks_and_their_shortcuts_are_found():
    found = {block.module: (block.units, block.ending, block.shortcut.name, block.shortcut.relu)
             for block in mutator_of(dense()).blocks}
    assert found == {
        'blocks.0': (['blocks.0.conv1_(0, 8)_8'], ['blocks.0.conv2', 'blocks.0.bn2'], None, False),
        'blocks.1': (['blocks.1.conv1_(0, 10)_10'], ['blocks.1.conv2', 'blocks.1.bn2'], 'downsample', True),
        'blocks.2': (['blocks.2.conv1_(0, 10)_10'], ['blocks.2.conv2', 'blocks.2.bn2'], None, False),
        'blocks.3': (['blocks.3.layers.0_(0, 12)_12'], ['blocks.3.layers.4', 'blocks.3.layers.5'], None, False)}


def test_net_without_a_block_has_none():
    assert mutator_of(randomise(Residual())).blocks == []  # its branch is no module of its own


@pytest.mark.parametrize('number', range(4))
def test_removed_block_is_masked_block_is_the_net_without_it(number):
    model = dense()
    mutator = mutator_of(model)
    units = {unit.name: unit for unit in mutator.units}
    block = next(block for block in mutator.blocks if block.module == f'blocks.{number}')
    masks = {name: np.zeros_like(unit.kept) if name in block.units else np.arange(len(unit.kept)) % 3 > 0
             for name, unit in units.items()}
    by_hand = copy.deepcopy(model)
    ChannelMutator.cut(mutator_of(by_hand), {name: mask for name, mask in masks.items() if name not in block.units})
    own = by_hand.blocks[number]
    by_hand.blocks[number] = (nn.Identity() if own.__dict__['_modules'].get('downsample') is None
                              else nn.Sequential(own.downsample, nn.ReLU()))
    masked = copy.deepcopy(model)
    mutator_of(masked).mask(masks)
    mutator.cut(masks)
    assert isinstance(model.blocks[number], Shortcut)
    wanted = by_hand(X)
    assert torch.allclose(model(X), wanted, rtol=0, atol=1e-12)
    assert torch.allclose(masked(X), wanted, rtol=0, atol=1e-12)
    assert mutator.cost['macs'] == counted_macs(model, mutator.demo_input)
    assert mutator.cost['params'] == sum(parameter.numel() for parameter in model.parameters())
    assert mutator.structure[block.units[0]] == 0
    assert list(mutator.structure) == list(units)


class Bottleneck(nn.Module):
    def __init__(self):
        super().__init__()
        self.reduce, self.conv, self.expand = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 6, 3, 1, 1), nn.Conv2d(6, 8, 1)

    def forward(self, x):
        return x + self.expand(F.relu(self.conv(F.relu(self.reduce(x)))))


def test_the_units_of_a_block_go_in_one_turn():
    model = randomise(nn.Sequential(nn.Conv2d(3, 8, 3), Bottleneck(), Bottleneck(), nn.Conv2d(8, 3, 1))).double().eval()
    pruner = mmprune.Pruner(model, X[:1], 'L2', remove_blocks=True, target=dict(
        scope='layer', levels={'*': 0.5, '1.reduce': 0.9, '1.conv': 0.9}))
    masks = pruner.choose().masks
    turns = []
    while pruner.cut_next():
        turns.append(pruner.mutator.structure)
    inside = ['1.reduce_(0, 6)_6', '1.conv_(0, 6)_6']
    assert [name for name, mask in masks.items() if not mask.any()] == inside
    assert [[one[name] for name in inside] for one in turns] == [[6, 6], [0, 0], [0, 0], [0, 0]]
    assert pruner.mutator.structure == {name: int(mask.sum()) for name, mask in masks.items()}
    assert model(X).shape == (2, 3, 6, 6)


def test_pruner_removes_on_request_only(tmp_path):
    sizes = {}
    for remove in (False, True):
        model = dense()
        for name in ('weight', 'bias'):  # the third block's channels are the least of all
            getattr(model.blocks[2].bn1, name).data.mul_(1e-3)
        pruner = mmprune.Pruner(model, X[:1], 'BNScale', target=dict(ratio=0.4), remove_blocks=remove,
                                choice=dict(min_channels=2))
        masked = copy.deepcopy(pruner)
        assert torch.allclose(masked.mask()(X), pruner.cut()(X), rtol=0, atol=1e-12)
        sizes[remove] = pruner.mutator.structure['blocks.2.conv1_(0, 10)_10']
        torch.nn.functional.cross_entropy(model.train()(X), torch.tensor([0, 1])).backward()
        model.eval()
    assert sizes == {False: 2, True: 0}
    assert 'pruned' in pruner.report()
    for kept in (False, True):
        mmprune.save_structure(pruner, tmp_path / 'structure.json', kept=kept)
        fresh = mmprune.apply_structure(dense(), X[:1], tmp_path / 'structure.json')
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(fresh(X), model(X))


def test_pruned_further_after_a_removal():
    model = dense()
    mutator = mutator_of(model)
    mutator.cut({mutator.units[1].name: np.zeros_like(mutator.units[1].kept)})
    pruner_like = {unit.name: np.arange(len(unit.kept)) % 2 == 0 for unit in mutator.units}
    masked = copy.deepcopy(mutator)
    masked.mask(pruner_like)
    mutator.cut(pruner_like)
    assert torch.allclose(masked.model(X), model(X), rtol=0, atol=1e-12)


def test_what_cannot_be_removed_says_why():
    mutator = mutator_of(dense())
    structure = mutator.structure
    with pytest.raises(StructureError, match="plain.*0 channels.*so 1 to 6 can stay"):
        mutator.apply_structure({**structure, 'plain_(0, 6)_6': 0})
    with pytest.raises(StructureError, match='only a residual block can be removed'):
        mutator.cut({'plain_(0, 6)_6': np.zeros(6, dtype=bool)})
    mutator.apply_structure({**structure, 'blocks.0.conv1_(0, 8)_8': 0})
    with pytest.raises(StructureError, match='its block was removed'):
        mutator.apply_structure(structure)


def test_group_fisher_goes_on_without_a_removed_block():
    """A structure with a unit of 0: its layers are tapped no more, and the rest is scored and pruned as before."""
    structure = {'blocks.1.conv1_(0, 10)_10': 0, 'blocks.3.layers.0_(0, 12)_12': 0}
    names = {f'net.{name}': count for name, count in structure.items()}
    algorithm = algorithm_of(ToyClassifier(dense().float().train()))
    algorithm.mutator.apply_structure({**algorithm.mutator.structure, **names})
    layers = {*algorithm.mutator.taps.layers}
    assert not any(name.startswith(('net.blocks.1.conv', 'net.blocks.3.')) for name in layers)
    assert {'net.blocks.0.conv1', 'net.blocks.2.conv2', 'net.plain', 'net.fc'} <= layers
    before = sum(algorithm.mutator.structure.values())
    wrapper = OptimWrapper(torch.optim.SGD(algorithm.parameters(), lr=0.01))
    for _ in range(3):
        algorithm.train_step(dict(inputs=X.float(), data_samples=torch.tensor([0, 1])), wrapper)
    assert sum(algorithm.mutator.structure.values()) == before - 3
    assert {name: algorithm.mutator.structure[name] for name in names} == names


@pytest.mark.usefixtures('folder')
def test_run_removes_resumes_and_deploys(folder, tmp_path):  # noqa: F811
    """One unit far below the others: its block goes in the run, and the checkpoint, finetune and deploy follow."""
    schedule = dict(type='mmprune.IterativePruningHook', criterion='BNScale', rounds=1, start=1, remove_blocks=True,
                    target=dict(levels={'backbone.layer2.1.conv1': 0.95}))
    with DefaultScope.overwrite_default_scope('mmcls'):
        config = write_config(folder, 'remove', schedule)
        whole = state_of(run(config, tmp_path / 'whole', {'train_cfg.max_epochs': 2}))
        name = 'backbone.layer2.1.conv1_(0, 16)_16'
        assert json.loads((tmp_path / 'whole' / 'fix_subnet.json').read_text())[name] == 0
        assert 'architecture.backbone.layer2.1.conv1.weight' not in whole[0]
        for iteration in (3, 8):
            resumed = state_of(run(config, tmp_path / str(iteration), {'train_cfg.max_epochs': 2}, resume=True,
                                   load_from=str(tmp_path / 'whole' / f'iter_{iteration}.pth')))
            assert all(torch.equal(value, resumed[0][key]) for key, value in whole[0].items())
        from mmengine.config import Config

        from mmprune.config import deploy_model
        base = Config.fromfile(folder / 'dense.py')
        deploy = deploy_model(base, str(tmp_path / 'whole' / 'fix_subnet.json'), 4, INPUT_SHAPE)
        deploy.pop('_delete_')
        model = MMENGINE_MODELS.build(deploy)
        weights = torch.load(tmp_path / 'whole' / 'pruned.pth', weights_only=False)['state_dict']
        model.load_state_dict({key[len('architecture.'):]: value for key, value in weights.items()
                               if key.startswith('architecture.')})
        x = torch.randn(INPUT_SHAPE)
        before = model.eval().extract_feat(x)[-1]
        model.switch_to_deploy()
        assert torch.allclose(model.extract_feat(x)[-1][:, :before.shape[1]], before, atol=1e-6)
