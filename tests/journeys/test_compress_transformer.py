"""`mmprune compress` on a transformer: linear layers are pruned without being asked for."""
import subprocess
import sys

import pytest
import torch
from digits_runs import write_prune_config
from mmcv import imwrite
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmprune.config import plain
from mmprune.engine.compress.survey import survey
from mmprune.engine.digits import Digits
from mmprune.models.from_config import dense_config, read_config
from mmprune.registry import MODELS
from mmprune.report.stage_record import read_plan, read_records

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings('ignore')]

VIT = dict(
    _delete_=True, type='ImageClassifier',
    backbone=dict(type='VisionTransformer', img_size=16, patch_size=4, arch=dict(
        embed_dims=64, num_layers=2, num_heads=4, feedforward_channels=128)),
    head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=64))
FEW = ['train_dataloader.dataset.indices=80', 'test_dataloader.dataset.indices=60', 'val_dataloader.dataset.indices=60']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Return a folder with the config, checkpoint and image of a small vision transformer on digits."""
    folder = tmp_path_factory.mktemp('transformer')
    write_prune_config(folder)
    (folder / 'vit.py').write_text(f"_base_ = 'dense.py'\nmodel = {VIT!r}\n")
    init_default_scope('mmcls')
    torch.manual_seed(0)
    model = MODELS.build(dense_config(read_config(str(folder / 'vit.py')))[0])
    torch.save(dict(state_dict=model.state_dict()), folder / 'vit.pth')
    imwrite(Digits('test')[0]['img'], str(folder / 'digit.png'))
    return folder


def compress(folder, *options):
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-m', 'mmprune', 'compress', 'vit.py', 'vit.pth', '--target', 'flops=0.6',
         '--image', 'digit.png', '--images', '40', '--finetune', '0.2', '--no-int8', *options, '--cfg-options', *FEW],
        cwd=folder, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr


def test_what_linear_layers_do_is_counted(folder):
    """Patches: 3 x 16 x 64 at 16 places; a block: (4 x 64 x 64 + 2 x 64 x 128) at 17; the head: 64 x 10."""
    cfg = read_config(str(folder / 'vit.py'))
    linear = 2 * 17 * (4 * 64 * 64 + 2 * 64 * 128) + 640
    assert survey(cfg, (1, 3, 16, 16)).linear_share == pytest.approx(linear / (linear + 16 * 48 * 64))
    assert survey(read_config(str(folder / 'dense.py')), (1, 3, 16, 16)).linear_share < 0.01


def test_a_transformer_is_compressed_as_it_comes(folder):
    status, text = compress(folder, '--work-dir', 'road')
    assert status == 0, text[-3000:]
    records = read_records(folder / 'road')
    assert 0.4 < records['prune'].result['reached']['flops'] <= 0.6
    assert read_plan(folder / 'road').options['mutate_linear'] is True
    widths = Config.fromfile(str(folder / 'road/prune/fix_subnet.json'))
    assert any('attn' in name or 'ffn' in name for name in plain(widths._cfg_dict))
    assert 'times as fast' in text


def test_linear_layers_stay_if_that_is_asked_for(folder):
    status, text = compress(folder, '--work-dir', 'whole', '--linear', 'never')
    assert status != 0
    assert 'mutate_linear' in text
