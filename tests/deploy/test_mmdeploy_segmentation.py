"""Pruned segmentors go through mmdeploy's own interface, wherever their config has its data preprocessor."""
import json
import os
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from paths import CONFIGS, ROOT
from segmentation_runs import SIZE, dense_config, write_shapes

from mmprune.arguments import UserError
from mmprune.config import plain
from mmprune.deploy import prediction
from mmprune.deploy.load import load_model, with_divisor
from mmprune.deploy.onnx_runtime import OnnxModel, ParityError
from mmprune.deploy.segmentation import Scores, compare_segmentor
from mmprune.models.from_config import read_config

for package in ('mmdeploy', 'mmseg'):
    pytest.importorskip(package)
pytestmark = [pytest.mark.full, pytest.mark.filterwarnings('ignore')]  # mmseg's, mmdeploy's, and torch's tracer
DYNAMIC = CONFIGS / 'deploy/segmentation_onnxruntime_dynamic.py'
DEPLOY = f'''
_base_ = './dense.py'
from mmprune.config import deploy_model
model = deploy_model(_base_, {{structure}}, 8, (1, 3, {SIZE}, {SIZE}))
'''
STRUCTURE = {'backbone.layer4.0.conv1_(0, 64)_64': 21, 'backbone.layer3.0.conv2_(0, 32)_32': 11}


def task_of(cfg):
    from mmdeploy.apis import build_task_processor
    return build_task_processor(cfg, read_config(str(DYNAMIC)), 'cpu')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Shapes, the config of a pruned DeepLabV3+ that reads them, and a checkpoint as finetuning leaves it."""
    folder = tmp_path_factory.mktemp('segmentation')
    (folder / 'dense.py').write_text(dense_config('deeplabv3plus', write_shapes(folder / 'shapes', (('val', 1),))))
    (folder / 'empty.py').write_text(DEPLOY.format(structure={}))
    torch.manual_seed(0)
    names = dict(load_model(read_config(str(folder / 'dense.py')), 'none').named_modules())
    assert 'auxiliary_head.convs.0.conv' in names
    structure = full_structure(folder / 'dense.py')
    assert set(STRUCTURE) < set(structure)
    (folder / 'deploy.py').write_text(DEPLOY.format(structure={**structure, **STRUCTURE}))
    unpadded = load_model(with_divisor(read_config(str(folder / 'deploy.py')), 1), 'none')
    torch.save(dict(state_dict=unpadded.state_dict()), folder / 'finetuned.pth')
    return folder


def full_structure(config):
    from mmprune.models.from_config import mutator_from_config
    return dict(mutator_from_config(str(config), (1, 3, SIZE, SIZE))[0].structure)


def test_upstream_interface(folder):
    image = folder / 'shapes/images/val/000.png'
    done = subprocess.run(
        [sys.executable, *map(str, ('tests/upstream_deploy.py', DYNAMIC, folder / 'deploy.py', folder / 'finetuned.pth',
                                    image, folder / 'out'))],
        cwd=ROOT, text=True, capture_output=True, timeout=400, env=dict(os.environ, OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stdout + done.stderr
    cfg = read_config(str(folder / 'deploy.py'))
    task = task_of(cfg)
    padded = load_model(task.whole_cfg, str(folder / 'finetuned.pth'))
    unpadded = load_model(with_divisor(cfg, 1), str(folder / 'finetuned.pth'))
    assert padded.fix_subnet['backbone.layer4.0.conv1_(0, 64)_64'] == 24
    x = prediction.image_inputs(task, padded, str(image)).x
    path = folder / 'out/end2end.onnx'
    for model in (padded, unpadded):
        segmented, _ = compare_segmentor(path, model, x, rounds=1)
        assert segmented.matched == segmented.total == SIZE * SIZE
        assert segmented.difference < 1e-4
    larger = torch.nn.functional.interpolate(torch.cat([x, x.flip(3)]), (96, 128), mode='bilinear')
    with torch.no_grad():
        wanted = Scores(unpadded)(larger).argmax(dim=1, keepdim=True)
        assert (OnnxModel(path)(larger)[0] == wanted).float().mean() > 0.999
        unpadded.decode_head.conv_seg.weight *= 1.01
    with pytest.raises(ParityError, match='must not be deployed'):
        compare_segmentor(path, unpadded, x, rounds=1)
    assert all((folder / f'out/output_{kind}_0.png').stat().st_size > 0 for kind in ('pytorch', 'onnxruntime'))
    steps = json.loads((folder / 'out/pipeline.json').read_text())['pipeline']['tasks']
    assert steps[0]['transforms'][2]['mean'] == [123.675, 116.28, 103.53]
    assert steps[1]['name'] == 'depthwiseseparableaspp'
    assert steps[2]['component'] == 'ResizeMask'


@pytest.mark.parametrize('config', ['dense.py', 'deploy.py'])
@pytest.mark.parametrize('place', ['beside', 'inside'])
def test_data_preprocessor_is_found_beside_the_model_and_in_it(config, place, folder):
    cfg = read_config(str(folder / config))
    model = cfg.model.get('architecture', cfg.model)
    wanted = plain(model.data_preprocessor)
    assert wanted['size'] == (SIZE, SIZE)
    if place == 'beside':
        del model['data_preprocessor']
    else:
        cfg.pop('data_preprocessor')
    cfg.pop('test_pipeline')
    before = cfg.pretty_text
    task = task_of(cfg)
    for found in (task.model_cfg.data_preprocessor, task.model_cfg.model.data_preprocessor):
        assert {**plain(found), '_scope_': 'mmseg'} == {**wanted, '_scope_': 'mmseg'}
    assert [step['type'] for step in task.model_cfg.test_pipeline] == [
        'LoadImageFromFile', 'Resize', 'LoadAnnotations', 'PackSegInputs']
    assert cfg.pretty_text == before
    assert type(load_model(task.whole_cfg, 'none').data_preprocessor).__name__ == 'SegDataPreProcessor'


def test_config_without_a_data_preprocessor_is_refused(folder):
    cfg = Config(dict(model=dict(type='EncoderDecoder'), default_scope='mmseg'))
    with pytest.raises(UserError, match='no data_preprocessor'):
        task_of(cfg)
