"""Converters: torchvision's MobileNetV2 and mmrazor's pruned checkpoints."""
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from paths import ROOT, TINY

from mmprune.commands import convert_mmrazor, convert_torchvision
from mmprune.config import plain
from mmprune.group_fisher.algorithm import GroupFisherAlgorithm
from mmprune.models.checkpoint import CheckpointError
from mmprune.registry import MODELS
from mmprune.report.proof import largest_difference
from mmprune.units.equivalence import random_masks, randomise

PRUNE = '''
_base_ = {dense!r}
from mmprune.config import prune_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, 'none.pth', 2, 'act', 0.5, 0.9, (1, 3, 16, 16))
'''


@pytest.fixture
def prune_config(tmp_path):
    path = tmp_path / 'prune.py'
    path.write_text(PRUNE.format(dense=str(TINY)))
    return path


def build(path) -> GroupFisherAlgorithm:
    cfg = Config.fromfile(path)
    init_default_scope('mmcls')
    return MODELS.build(plain(cfg.model))


def mmrazor_state(algorithm, masks, with_frozen=False):
    """A state dict in mmrazor's layout: architecture at full size, masks in the order of the forward pass."""
    state = {f'architecture.{key}': value.clone() for key, value in algorithm.architecture.state_dict().items()}
    state['architecture.backbone.conv1.mutable_attrs.in_channels.mask'] = torch.ones(3)
    vectors = [torch.from_numpy(masks[unit.name]).float() for unit in algorithm.mutator.units]
    if with_frozen:  # what mmrazor numbers too: the last stage's output before its inner convolutions, the classifier
        position = [unit.name for unit in algorithm.mutator.units].index('backbone.layer4.1.conv1_(0, 64)_64')
        vectors.insert(position, torch.ones(64))
        vectors.append(torch.ones(10))
    for number in reversed(range(len(vectors))):  # the order of the keys must not matter
        state[f'mutator.units.{number}.mutable_channel.mask'] = vectors[number]
    return state


@pytest.mark.parametrize('with_frozen', [False, True])
def test_mmrazor_checkpoint_becomes_the_masked_model(prune_config, tmp_path, with_frozen):
    algorithm = build(prune_config)
    randomise(algorithm.architecture, 0)
    masks = random_masks(algorithm.mutator.units, 0.5, seed=0)
    difference, cut = largest_difference(algorithm.mutator, masks)
    assert difference < 1e-10
    state = mmrazor_state(algorithm, masks, with_frozen)
    torch.save(dict(state_dict=state), tmp_path / 'mmrazor.pth')
    done = subprocess.run([sys.executable, '-W', 'ignore', str(ROOT / 'tools/model_converters/from_mmrazor.py'),
                           str(prune_config), str(tmp_path / 'mmrazor.pth'), str(tmp_path / 'pruned.pth')],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    fresh = build(prune_config)
    fresh.load_pruned(str(tmp_path / 'pruned.pth'))
    x = torch.randn(2, 3, 16, 16)
    fresh.eval()
    cut.float().eval()
    assert fresh.architecture.backbone.conv1.weight.shape[0] == masks['backbone.conv1_(0, 8)_8'].sum()
    torch.testing.assert_close(fresh(x, mode='tensor'), cut(x, mode='tensor'), rtol=1e-5, atol=1e-5)


def test_masks_of_another_model_are_refused(prune_config):
    algorithm = build(prune_config)
    state = mmrazor_state(algorithm, random_masks(algorithm.mutator.units, 0.5, seed=0))
    state['mutator.units.0.mutable_channel.mask'] = torch.ones(9)
    with pytest.raises(CheckpointError, match=r'have widths 9 .*Is PRUNE_CONFIG of that model'):
        convert_mmrazor.convert(algorithm, state)


def test_dense_checkpoint_is_no_mmrazor_checkpoint():
    with pytest.raises(CheckpointError, match='it is no pruned checkpoint of mmrazor'):
        convert_mmrazor.masks_in_order({'architecture.conv.weight': torch.ones(1)})


@pytest.mark.full
def test_torchvision_mobilenet_v2_gives_the_same_logits():
    models = pytest.importorskip('torchvision.models')
    theirs = models.mobilenet_v2(weights=None)
    randomise(theirs, 0)
    cfg = Config.fromfile(ROOT / 'configs/mmcls/imagenet_sample/mobilenet-v2_imagenet-sample.py')
    init_default_scope('mmcls')
    ours = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    ours.load_state_dict(convert_torchvision.convert(theirs.state_dict()), strict=True)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours.eval()(x, mode='tensor'), theirs.eval()(x))


def test_unknown_torchvision_key_is_named():
    with pytest.raises(CheckpointError, match="'layer1.conv.weight' is no key of torchvision's mobilenet_v2"):
        convert_torchvision.convert({'layer1.conv.weight': torch.ones(1)})
