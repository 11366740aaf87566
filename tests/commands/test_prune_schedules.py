"""Prune configs have a constant learning rate and time enough for their target; finetune configs the dense schedule."""
import math

import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from paths import CONFIGS, ROOT

from mmprune.arguments import UserError
from mmprune.config import finetune_schedule, finetune_settings, plain, prune_schedule, prune_settings
from mmprune.engine.outlook import check_reach, iterations_needed
from mmprune.engine.resource import Resource
from mmprune.registry import HOOKS, MODELS

pytestmark = pytest.mark.filterwarnings('ignore:.*num_anchors')  # mmdet's own

#: Training samples, and processes of the run that the config is written for, by a part of its name.
SAMPLES = {
    'mmpose/group_fisher': (149_813, 8),  # persons of COCO train2017; with AIC there are more
    'mmdet/group_fisher': (117_266, 8),  # images of COCO train2017 with boxes
    '8xb32_in1k': (1_281_167, 8), '4xb256_in1k': (1_281_167, 4),
    'cifar10': (50_000, 1), 'digits': (1_400, 1), 'imagenet_sample': (500, 1),
    'mmdet/bccd': (205, 1), 'coco_sample': (53, 1)}


def prune_configs(marker):
    """Return the prune configs whose text contains a word, those of detectors, poses and segmentors for full."""
    names = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob('*_prune_*.py')
                   if marker in path.read_text())
    noisy = pytest.mark.filterwarnings('ignore')  # what mmseg and DETR warn of themselves
    return [name if name.startswith('mmcls/') else pytest.param(name, marks=(
        pytest.mark.full, *([noisy] if 'mmseg/' in name or 'detr' in name else []))) for name in names]


def iterations_of(name, cfg):
    """Return how many iterations the run may take: those that it names, or epochs times batches of each process."""
    if 'max_iters' in cfg.train_cfg:
        assert cfg.train_cfg.max_iters == cfg.max_iters
        return cfg.max_iters
    assert cfg.train_cfg.max_epochs == cfg.max_epochs
    samples, processes = next(value for part, value in SAMPLES.items() if part in name)
    dataset = cfg.train_dataloader.dataset
    repeats = dataset.times if dataset.type == 'RepeatDataset' else 1
    assert not cfg.train_dataloader.get('drop_last')
    return cfg.train_cfg.max_epochs * math.ceil(samples * repeats / (cfg.train_dataloader.batch_size * processes))


def built(cfg):
    """Build the algorithm of a prune config without weights, on a small input: units do not depend on it."""
    init_default_scope(cfg.default_scope)
    model = plain(cfg.model)
    if 'data_preprocessor' not in model and 'data_preprocessor' in cfg:
        model['data_preprocessor'] = plain(cfg.data_preprocessor)
    model['architecture'].pop('init_cfg', None)
    demo_input = model['mutator']['demo_input']
    if max(demo_input['input_shape']) > 640:
        demo_input['input_shape'] = (1, 3, 128, 128)
    if demo_input['type'] == 'mmprune.RegionDemoInput':
        demo_input['regions'] = 20
    model['mutator']['trial_cut'] = False
    return MODELS.build(model)


@pytest.mark.parametrize('name', prune_configs('prune_settings'))
def test_prune_config_reaches_its_target_in_time_at_a_constant_rate(name):
    """Even if the cheapest channels go first; published runs removed 0.5 to 1.7 times the channels of an even cut."""
    cfg = Config.fromfile(CONFIGS / name)
    assert cfg.param_scheduler == []
    assert 'dynamic_intervals' not in cfg.train_cfg
    algorithm = built(cfg)
    target = cfg.custom_hooks[-1].save_ckpt_thr[-1]
    assert target == cfg.target_flop_ratio
    resource = Resource('flops', algorithm.mutator)
    check_reach(resource, target)
    even, most = iterations_needed(algorithm, resource, target)
    assert 0 < even < most <= iterations_of(name, cfg)
    for hook in cfg.custom_hooks:  # the last epochs of YOLOX, counted from the end, are not needed
        if hook.type == 'YOLOXModeSwitchHook':
            assert most <= iterations_of(name, cfg) * (1 - hook.num_last_epochs / cfg.max_epochs)


@pytest.mark.parametrize('name', prune_configs('LayerByLayerPruningHook'))
def test_every_unit_has_its_turn(name):
    cfg = Config.fromfile(CONFIGS / name)
    algorithm = built(cfg)
    hook = HOOKS.build(plain(cfg.custom_hooks[-1]))
    hook.bind(algorithm)
    turns = math.ceil((cfg.train_cfg.max_epochs if hook.by_epoch else iterations_of(name, cfg)) / hook.interval)
    assert 0 < sum(hook.target.prunes(algorithm.mutator, unit) for unit in algorithm.mutator.units) <= turns


@pytest.mark.parametrize('name', prune_configs('IterativePruningHook'))
def test_every_round_comes(name):
    cfg = Config.fromfile(CONFIGS / name)
    hook = HOOKS.build(plain(next(hook for hook in cfg.custom_hooks if 'IterativePruning' in hook.type)))
    assert hook.start + (hook.rounds - 1) * hook.epochs < cfg.train_cfg.max_epochs


BASE = dict(
    param_scheduler=[dict(type='LinearLR', by_epoch=False, begin=0, end=5), dict(type='CosineAnnealingLR', T_max=30)],
    train_cfg=dict(by_epoch=True, max_epochs=30, val_interval=10, dynamic_intervals=[(28, 1)]))


def test_schedule_of_a_prune_config():
    schedulers, train_cfg, dense = prune_schedule(BASE, 7)
    assert schedulers == []
    assert train_cfg == dict(_delete_=True, by_epoch=True, max_epochs=7, val_interval=10)
    assert dense == BASE
    assert prune_schedule(BASE, 7, val_interval=2)[1]['val_interval'] == 2
    dense['train_cfg']['max_epochs'] = 1
    assert BASE['train_cfg']['max_epochs'] == 30  # a copy


def test_schedule_of_a_base_that_counts_iterations():
    base = dict(train_cfg=dict(type='IterBasedTrainLoop', max_iters=80_000, val_interval=8_000))
    schedulers, train_cfg, dense = prune_schedule(base, max_iters=9_000)
    assert schedulers == []
    assert train_cfg == dict(_delete_=True, type='IterBasedTrainLoop', max_iters=9_000, val_interval=8_000)
    assert finetune_schedule(dict(base, dense_schedule=dense)) == ([], dict(base['train_cfg'], _delete_=True))


@pytest.mark.parametrize(('base', 'limits', 'message'), [
    (BASE, dict(max_iters=9), 'trains by max_epochs, so the prune config needs max_epochs and no max_iters'),
    (BASE, dict(), 'needs max_epochs'), (BASE, dict(max_epochs=3, max_iters=9), 'needs max_epochs and no max_iters'),
    (dict(train_cfg=dict(max_iters=9)), dict(max_epochs=3), 'so the prune config needs max_iters and no max_epochs'),
    *((BASE, dict(max_epochs=wrong), 'max_epochs is .*; it must be a whole number of 1 or more')
      for wrong in (0, -1, 2.5, '7', True)), (BASE, dict(max_epochs=3, val_interval=0), 'val_interval is 0')], ids=str)
def test_a_wrong_limit_is_refused(base, limits, message):
    with pytest.raises(UserError, match=message):
        prune_schedule(base, **limits)


def test_finetuning_takes_the_dense_schedule():
    base = dict(BASE, param_scheduler=[], train_cfg=dict(max_epochs=7), dense_schedule=prune_schedule(BASE, 7)[2])
    assert finetune_schedule(base) == (BASE['param_scheduler'], dict(BASE['train_cfg'], _delete_=True))
    # a prune config that kept the schedule of its base
    assert finetune_schedule(BASE) == (BASE['param_scheduler'], dict(BASE['train_cfg'], _delete_=True))


@pytest.mark.parametrize('name', [
    pytest.param('mmdet/group_fisher/retinanet/group_fisher_act_finetune_retinanet_r50_fpn_1x_coco.py',
                 marks=pytest.mark.full),
    pytest.param('mmpose/group_fisher/group_fisher_finetune_rtmpose-s_8xb256-420e_coco-256x192.py',
                 marks=pytest.mark.full),
    'mmcls/group_fisher/resnet50/group_fisher_act_finetune_resnet50_8xb32_in1k_dist.py',
    'mmcls/group_fisher/mobilenet/group_fisher_flops_finetune_mobilenet-v2_8xb32_in1k.py'])
def test_finetune_config_has_the_schedule_of_the_dense_config(name, tmp_path):
    finetune = Config.fromfile(CONFIGS / name)
    prune = (CONFIGS / name.replace('_finetune_', '_prune_').replace('_dist', '')).read_text()
    base = prune.split("_base_ = '")[1].split("'")[0]
    (tmp_path / 'dense.py').write_text(f"_base_ = '{base if '::' in base else (CONFIGS / name).parent / base}'\n")
    dense = Config.fromfile(tmp_path / 'dense.py')
    wanted = plain(dense.param_scheduler)
    assert plain(finetune.param_scheduler) == ([wanted] if isinstance(wanted, dict) else wanted) != []
    assert plain(finetune.train_cfg) == plain(dense.train_cfg)


def test_only_detectors_and_pose_estimators_have_a_floor_by_default():
    def floor(scope, **choice):
        base = dict(model=dict(type='A'), optim_wrapper=dict(optimizer=dict(lr=1)), default_scope=scope)
        model = prune_settings(base, 'dense.pth', 1, 'act', 0.1, 0.5, (1, 3, 8, 8), choice=choice or None)[0]
        return model['mutator'].get('min_channels')

    assert [floor(scope) for scope in ('mmdet', 'mmpose', 'mmcls', 'mmpretrain', None)] == [0.1, 0.1, None, None, None]
    assert floor('mmdet', min_channels=1) == 1
    assert floor('mmdet', include='backbone') == 0.1
    assert floor('mmcls', min_channels=8) == 8


def test_settings_go_on_as_four_values():
    base = dict(model=dict(architecture=dict(type='A')), optim_wrapper=dict(optimizer=dict(lr=1)), dense_schedule=BASE)
    assert len(finetune_settings(base, 'pruned.pth', 0.1)) == 4


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').rglob('*_finetune_*.py')), ids=lambda path: path.stem)
def test_no_finetune_config_goes_on_with_a_constant_rate(path):
    """It says so itself, or by the config that it builds upon."""
    text = path.read_text()
    assert 'param_scheduler' in text or '_finetune_' in text.split('_base_ = ')[1].split('\n')[0]
