"""Converters: torchvision's MobileNetV2 and mmrazor's pruned checkpoints."""
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmrazor_files import pruned_state
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


#: What mmrazor has a mask of too: the last stage's output, before the inner channels of the stage's last block.
STAYS, BEFORE = 'backbone.layer4.0.conv2_(0, 64)_64', 'backbone.layer4.1.conv1_(0, 64)_64'


def mmrazor_state(algorithm, masks):
    """A state dict in mmrazor's layout: architecture at full size, masks in the order of the forward pass."""
    vectors = [masks[unit.name] for unit in algorithm.mutator.units]
    vectors.insert([unit.name for unit in algorithm.mutator.units].index(BEFORE), np.ones(64, dtype=bool))
    return pruned_state(algorithm.architecture, vectors)


def test_mmrazor_checkpoint_becomes_the_masked_model(prune_config, tmp_path):
    algorithm = build(prune_config)
    randomise(algorithm.architecture, 0)
    masks = random_masks(algorithm.mutator.units, 0.5, seed=0)
    difference, cut = largest_difference(algorithm.mutator, masks)
    assert difference < 1e-10
    state = mmrazor_state(algorithm, masks)
    torch.save(dict(state_dict=state), tmp_path / 'mmrazor.pth')
    done = subprocess.run([sys.executable, '-W', 'ignore', str(ROOT / 'tools/model_converters/from_mmrazor.py'),
                           str(prune_config), str(tmp_path / 'mmrazor.pth'), str(tmp_path / 'pruned.pth')],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f'12 masks, 1 of them of channels that stay in both ({STAYS})\n11 units, ' in done.stdout
    fresh = build(prune_config)
    fresh.load_pruned(str(tmp_path / 'pruned.pth'))
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    fresh.double().eval()
    cut.eval()
    assert fresh.architecture.backbone.conv1.weight.shape[0] == masks['backbone.conv1_(0, 8)_8'].sum()
    torch.testing.assert_close(fresh(x, mode='tensor'), cut(x, mode='tensor'), rtol=1e-10, atol=1e-10)


def test_masks_of_another_model_are_refused(prune_config, tmp_path):
    algorithm = build(prune_config)
    state = mmrazor_state(algorithm, random_masks(algorithm.mutator.units, 0.5, seed=0))
    state['mutator.units.0.mutable_channel.mask'] = torch.ones(9)
    torch.save(dict(state_dict=state), tmp_path / 'mmrazor.pth')
    with pytest.raises(CheckpointError) as error:
        convert_mmrazor.main([str(prune_config), str(tmp_path / 'mmrazor.pth'), str(tmp_path / 'pruned.pth')])
    assert str(error.value) == ("source: mask 0 is for 9 channels, and 'backbone.conv1_(0, 8)_8', which is number 0 "
                                'here, has 8 channels. Is PRUNE_CONFIG of that model?')
    assert not (tmp_path / 'pruned.pth').exists()


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
