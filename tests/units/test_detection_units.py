"""Units and costs of mmdet's RetinaNet and mmpose's RTMPose-s are those of the published structures."""
import json

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from paths import CONFIGS

from mmprune.registry import MODELS
from mmprune.units.mutator import ChannelMutator

pytestmark = pytest.mark.full
RETINANET, RTMPOSE = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', 'mmpose::body_2d_keypoint/rtmpose/coco/rtmpose-s_'
#: structure -> config, input, dense MACs and parameters, pruned MACs and parameters
PUBLISHED = {
    'mmdet/group_fisher/retinanet/group_fisher_act_retinanet_r50_fpn_1x_coco': (
        RETINANET, (1, 3, 1333, 800), (249521214464, 37968692, 124868759680, 27826553)),
    'mmdet/group_fisher/retinanet/group_fisher_flops_retinanet_r50_fpn_1x_coco': (
        RETINANET, (1, 3, 1333, 800), (249521214464, 37968692, 124648612750, 28062466)),
    'mmpose/group_fisher/group_fisher_rtmpose-s_8xb256-420e_aic-coco-256x192': (
        f'{RTMPOSE}8xb256-420e_aic-coco-256x192.py', (1, 3, 256, 192), (676220928, 5473251, 345228908, 3430888)),
    'mmpose/group_fisher/group_fisher_rtmpose-s_8xb256-420e_coco-256x192': (
        f'{RTMPOSE}8xb256-420e_coco-256x192.py', (1, 3, 256, 192), (676220928, 5473251, 345273367, 3421908))}
MUTATORS = {}


def mutator_of(config, shape):
    """Prepare a mutator once a config; building, tracing and the trial cut take a while."""
    if config not in MUTATORS:
        from mmengine.hub import get_config
        cfg = get_config(config)
        init_default_scope(cfg.default_scope)
        model = dict(cfg.model, _scope_=cfg.default_scope)
        model['backbone'].pop('init_cfg', None)
        mutator = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=shape))
        mutator.prepare(MODELS.build(model))
        MUTATORS[config] = mutator
    return MUTATORS[config]


@pytest.mark.parametrize('name', PUBLISHED)
def test_units_and_costs_of_published_structures(name):
    config, shape, published = PUBLISHED[name]
    pytest.importorskip(config.partition('::')[0])
    structure = json.loads((CONFIGS / f'{name}.json').read_text())
    mutator = mutator_of(config, shape)
    assert list(mutator.structure) == list(structure)  # names, and their order
    masks = {unit.name: np.arange(unit.num_sets) < structure[unit.name] for unit in mutator.units}
    dense, pruned = mutator.cost, mutator.complexity.cost(mutator.surgery.widths_with(masks))
    assert (dense['macs'], dense['params'], pruned['macs'], pruned['params']) == published
