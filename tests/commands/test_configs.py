"""Every config reads, builds, and dumps flat and self-contained."""
import json
import re
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from paths import ROOT

from mmprune.config import plain
from mmprune.registry import MODELS

pytestmark = pytest.mark.filterwarnings(  # mmdet's and mmseg's own
    'ignore:.*num_anchors', 'ignore:``build_loss``', 'ignore:Default ``avg_non_ignore``', 'ignore:.*pretrained is')
#: Folders of configs that tests/commands/test_criteria_configs.py is about.
CRITERIA = ('fpgm', 'thinet', 'apoz', 'filter_norm', 'network_slimming', 'taylor', 'group_fisher_attention')
CONFIGS = sorted(path.relative_to(ROOT / 'configs').as_posix() for path in (ROOT / 'configs').rglob('*.py')
                 if path.relative_to(ROOT / 'configs').parts[0] != 'deploy'
                 and path.parent.name not in CRITERIA)
#: Configs of mmdet, mmpose and mmseg need the full environment.
CONFIGS = [pytest.param(path, marks=pytest.mark.full) if path.startswith(('mmdet/', 'mmpose/', 'mmseg/')) else path
           for path in CONFIGS]
PUBLISHED = [path for path in CONFIGS if 'group_fisher/' in str(path)]
ARGUMENTS = {
    'prune': ['_base_', 'pretrained_path', 'interval', 'normalization_type', 'lr_ratio', 'target_flop_ratio',
              'input_shape'],
    'finetune': ['_base_', 'pruned_path', 'finetune_lr'],
    'deploy': ['_base_', 'fix_subnet', 'divisor']}


def read(name: str) -> Config:
    cfg = Config.fromfile(ROOT / 'configs' / name)
    init_default_scope(cfg.default_scope)
    return cfg


@pytest.fixture(scope='module')
def build(tmp_path_factory):
    """Build the model of a config; checkpoints that it names are made up for it."""
    folder = tmp_path_factory.mktemp('pruned')

    def checkpoint(algorithm_cfg) -> str:
        algorithm = MODELS.build(plain(dict(algorithm_cfg, init_cfg=None)))
        algorithm.mutator.apply_structure({u.name: u.width - u.multiplicity for u in algorithm.mutator.units})
        path = folder / f'{len(list(folder.iterdir()))}.pth'
        torch.save(dict(state_dict=algorithm.state_dict()), path)
        return str(path)

    def build(cfg: Config) -> torch.nn.Module:
        model = plain(cfg.model)
        if 'data_preprocessor' in cfg:
            model.setdefault('data_preprocessor', plain(cfg.data_preprocessor))
        student = model.get('student', model)
        demo_input = student.get('demo_input') or student.get('algorithm', student).get('mutator', {}).get('demo_input')
        if demo_input is not None and max(demo_input['input_shape']) > 640:
            demo_input['input_shape'] = (1, 3, 128, 128)  # units do not depend on it
        if demo_input is not None and demo_input['type'] == 'mmprune.RegionDemoInput':
            demo_input['regions'] = 20
        if 'algorithm' in student:
            student['algorithm']['init_cfg']['checkpoint'] = checkpoint(student['algorithm'])
        if 'teacher' in model:
            teacher = MODELS.build(dict(model['teacher'], init_cfg=None))
            model['teacher']['init_cfg']['checkpoint'] = str(folder / 'teacher.pth')
            torch.save(dict(state_dict=teacher.state_dict()), folder / 'teacher.pth')
        return MODELS.build(model)

    return build


@pytest.mark.parametrize('name', CONFIGS)
def test_config_builds(name, build):
    cfg = read(name)
    model = build(cfg)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters > 1e4
    if '_deploy_' in name:
        structure = plain(cfg.model.fix_subnet)
        assert dict(model.fix_subnet) == structure
    if '_finetune_' in name:
        assert all(count < int(unit.rsplit('_', 1)[1].split('#')[0]) for unit, count in model.fix_subnet.items())


@pytest.mark.parametrize('name', CONFIGS)
def test_dumped_config_is_flat_and_the_same(name, tmp_path):
    cfg = read(name)
    cfg.dump(tmp_path / 'dumped.py')
    text = (tmp_path / 'dumped.py').read_text()
    assert '_base_ =' not in text
    assert 'import' not in text
    again = Config.fromfile(tmp_path / 'dumped.py')
    assert plain(again.model) == plain(cfg.model)
    assert plain(again.optim_wrapper) == plain(cfg.optim_wrapper)
    assert [hook['type'] for hook in again.get('custom_hooks', [])] == [
        hook['type'] for hook in cfg.get('custom_hooks', [])]


@pytest.mark.parametrize('name', PUBLISHED)
def test_arguments_stand_at_the_top_each_with_its_comment(name):
    stage = next(stage for stage in ARGUMENTS if f'_{stage}_' in name)
    lines = (ROOT / 'configs' / name).read_text().split('from mmprune.config import')[0].strip().split('\n')
    wanted = ['_base_', 'teacher_path'] if name.endswith('_dist.py') else ARGUMENTS[stage]
    if stage == 'deploy' and not name.startswith('mmcls/'):  # no input that goes without saying
        wanted = [*wanted, 'input_shape']
    if stage == 'prune':
        limit = 'max_iters' if name.startswith('mmseg/') else 'max_epochs'
        wanted = [*wanted, *(['mutate_linear'] if '-rcnn_' in name else []), limit]
    places = [number for number, line in enumerate(lines) if re.match(r'\w+ = ', line)]
    assert [lines[number].split(' = ')[0] for number in places] == wanted
    assert all(lines[number - 1].startswith('# ') for number in places)


@pytest.mark.parametrize(('model', 'values'), [
    ('resnet50/group_fisher_{}_resnet50_8xb32_in1k', (25, 0.04, 0.5, 0.1)),
    ('mobilenet/group_fisher_{}_mobilenet-v2_8xb32_in1k', (25, 0.1125, 0.65, 0.045))])
@pytest.mark.parametrize('normalization', ['act', 'flops'])
def test_published_settings(model, values, normalization):
    interval, lr_ratio, target, finetune_lr = values
    prune = read('mmcls/group_fisher/' + model.format(f'{normalization}_prune') + '.py')
    assert prune.model.interval == prune.interval == interval
    assert prune.model.mutator.channel_unit_cfg.normalization_type == normalization
    base_lr = {'resnet50': 0.1, 'mobilenet': 0.045}[model.split('/')[0]]
    assert prune.optim_wrapper.optimizer.lr == pytest.approx(base_lr * lr_ratio)
    assert prune.custom_hooks[-1].save_ckpt_thr == [target]
    assert prune.model_wrapper_cfg.type == 'mmprune.GroupFisherDDP'
    finetune = read('mmcls/group_fisher/' + model.format(f'{normalization}_finetune') + '.py')
    assert finetune.optim_wrapper.optimizer.lr == finetune_lr
    assert finetune.pruned_path.endswith(f'flops_{target:.2f}.pth')


@pytest.mark.full
@pytest.mark.parametrize(('prune', 'finetune', 'values'), [
    *((f'mmdet/group_fisher/retinanet/group_fisher_{kind}_prune_retinanet_r50_fpn_1x_coco.py',
       f'mmdet/group_fisher/retinanet/group_fisher_{kind}_finetune_retinanet_r50_fpn_1x_coco.py',
       (10, 0.001, 0.5, 0.005, (1, 3, 1333, 800))) for kind in ('act', 'flops')),
    *((f'mmpose/group_fisher/group_fisher_prune_rtmpose-s_8xb256-420e_{data}-256x192.py',
       f'mmpose/group_fisher/group_fisher_finetune_rtmpose-s_8xb256-420e_{data}-256x192.py',
       (10, 4e-4, 0.51, 4e-3, (1, 3, 256, 192))) for data in ('coco', 'aic-coco'))])
def test_published_settings_of_detection_and_pose(prune, finetune, values):
    interval, lr, target, finetune_lr, shape = values
    cfg = read(prune)
    assert cfg.model.interval == interval
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(lr)
    assert cfg.custom_hooks[-1].save_ckpt_thr == [target]
    assert tuple(cfg.model.mutator.demo_input.input_shape) == shape
    assert cfg.model.architecture.backbone.get('frozen_stages', -1) == -1
    if 'rtmpose' in prune:  # the base's own hooks stay: the averaged copy, and the pipeline of the last epochs
        assert [hook.type for hook in cfg.custom_hooks[:2]] == ['EMAHook', 'mmdet.PipelineSwitchHook']
    tuned = read(finetune)
    assert tuned.optim_wrapper.optimizer.lr == finetune_lr
    assert tuned.pruned_path.endswith(f'flops_{target:.2f}.pth')


def test_published_structures_are_json_objects():
    files = sorted((ROOT / 'configs').rglob('*.json'))
    assert len(files) >= 4
    for path in files:
        assert all(isinstance(count, int) and count > 0 for count in json.loads(path.read_text()).values())


@pytest.mark.full
def test_mmpretrain_is_a_base_too(tmp_path):
    pytest.importorskip('mmpretrain')
    text = (ROOT / 'configs/mmcls/group_fisher/mobilenet/group_fisher_act_prune_mobilenet-v2_8xb32_in1k.py').read_text()
    (tmp_path / 'prune.py').write_text(text.replace('mmcls::', 'mmpretrain::'))
    done = subprocess.run([sys.executable, '-W', 'ignore', str(ROOT / 'tools/pruning/structure_cost.py'),
                           str(tmp_path / 'prune.py'), '--json', '-'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)['macs'] == 300774272
