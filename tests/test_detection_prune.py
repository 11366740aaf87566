"""Detectors and pose estimators prune with their real losses, save, and are rebuilt from their structure."""
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from mmprune import check
from mmprune.config import architecture_of, group_fisher_model
from mmprune.equivalence import outputs, relative_difference
from mmprune.mutator import ChannelMutator
from mmprune.registry import MODELS
from mmprune.sub_model import GroupFisherDeploySubModel

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings('ignore:.*num_anchors'),
              pytest.mark.filterwarnings('ignore:torch.meshgrid')]
#: name -> config, size of the images, units; 47 are those of the published RetinaNet structure
DETECTORS = {
    'RetinaNet': ('retinanet/retinanet_r50_fpn_1x_coco', 128, 47), 'FSAF': ('fsaf/fsaf_r50_fpn_1x_coco', 128, 47),
    'ATSS': ('atss/atss_r50_fpn_1x_coco', 128, 47), 'PAA': ('paa/paa_r50_fpn_1x_coco', 128, 47),
    'YOLOX-s': ('yolox/yolox_s_8xb8-300e_coco', 128, 67), 'RTMDet-s': ('rtmdet/rtmdet_s_8xb32-300e_coco', 128, 57),
    'SSD300': ('ssd/ssd300_coco', 300, 22), 'Faster R-CNN': ('faster_rcnn/faster-rcnn_r50_fpn_1x_coco', 128, 42),
    'Mask R-CNN': ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco', 128, 47)}
#: Linear layers of the second stage are pruned too.
TWO_STAGES = ('Faster R-CNN', 'Mask R-CNN')
POSE = {
    'RTMPose-s': ('rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192', 28),
    'RTMPose-t': ('rtmpose/coco/rtmpose-t_8xb256-420e_coco-256x192', 26),
    'HRNet-W32': ('topdown_heatmap/coco/td-hm_hrnet-w32_8xb64-210e_coco-256x192', 131),
    'SimpleBaseline-R50': ('topdown_heatmap/coco/td-hm_res50_8xb64-210e_coco-256x192', 40)}


def base_of(config):
    cfg = get_config(config)
    init_default_scope(cfg.default_scope)
    cfg.model.setdefault('backbone', {}).pop('init_cfg', None)
    if cfg.model.data_preprocessor.get('batch_augments'):
        cfg.model.data_preprocessor.batch_augments = None  # images of one size here
    return cfg


def prune_and_rebuild(config, shape, batch, count=10, mutate_linear=False):
    """Prune ``count`` channels, one an iteration, with the config's own loss and optimizer; rebuild and compare."""
    torch.manual_seed(0)
    cfg = base_of(config)
    model = ConfigDict(group_fisher_model(cfg, '', 1, 'act', shape, mutate_linear))
    model.pop('_delete_')
    model.architecture.pop('init_cfg')
    if model.mutator.demo_input.type.endswith('RegionDemoInput'):
        model.mutator.demo_input.regions = 50
    if 'frozen_stages' in model.architecture.backbone:
        model.architecture.backbone.frozen_stages = -1
    algorithm = MODELS.build(model)
    algorithm.init_weights()
    wrapper = build_optim_wrapper(algorithm, dict(cfg.optim_wrapper, type='OptimWrapper', optimizer=dict(
        cfg.optim_wrapper.optimizer, lr=1e-5)))
    dense = algorithm.mutator.structure
    for _ in range(count):
        losses = algorithm.train_step(batch(), wrapper)
        assert all(bool(torch.as_tensor(value).isfinite().all()) for value in losses.values())
    pruned = algorithm.mutator.structure
    assert sum((dense[unit.name] - pruned[unit.name]) // unit.multiplicity for unit in algorithm.mutator.units) == count

    architecture = ConfigDict(architecture_of(cfg), init_cfg=None)
    rebuilt = GroupFisherDeploySubModel(architecture, pruned, demo_input=model.mutator.demo_input,
                                        mutate_linear=mutate_linear)
    rebuilt.load_state_dict(algorithm.architecture.state_dict())
    forward = algorithm.mutator.demo_input
    algorithm.mutator.remove_taps()
    assert relative_difference(outputs(algorithm.architecture, forward, False), outputs(rebuilt, forward, False)) == 0
    return algorithm


@pytest.mark.parametrize('name', DETECTORS)
def test_detector(name):
    pytest.importorskip('mmdet')
    from mmdet.testing import demo_mm_inputs
    config, size, units = DETECTORS[name]
    algorithm = prune_and_rebuild(f'mmdet::{config}.py', (1, 3, size, size), lambda: demo_mm_inputs(
        2, [[3, size, size], [3, size, size]], num_classes=20, with_mask=name == 'Mask R-CNN'),
        mutate_linear=name in TWO_STAGES)
    assert len(algorithm.mutator.units) == units


def test_second_stage_is_pruned_exactly_through_its_regions():
    """conv -> RoIAlign -> flatten -> linear, and the number of channels that the extractor keeps."""
    pytest.importorskip('mmdet')
    cfg = base_of('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True),
                             dict(type='RegionDemoInput', input_shape=(1, 3, 128, 128), regions=20))
    mutator.prepare(MODELS.build(ConfigDict(cfg.model, _scope_='mmdet')))
    pyramid = next(unit for unit in mutator.units if unit.name.startswith('neck.fpn_convs.0.conv_'))
    columns = {member.axis.tensor: member.index.shape for member in pyramid.channels.consumers}
    assert columns['roi_head.bbox_head.shared_fcs.0.weight'] == (256, 49)
    assert columns['rpn_head.rpn_conv.weight'] == (256, 1)
    proof = check.prove(mutator, seeds=1)
    print(f'Faster R-CNN: {proof.differences[0]:.1e} over {proof.units} units')
    assert proof.holds()
    mask = pyramid.kept.copy()
    mask[:56] = False
    mutator.cut({pyramid.name: mask})
    assert mutator.model.roi_head.bbox_roi_extractor.out_channels == 200


@pytest.mark.parametrize('name', POSE)
def test_pose_estimator(name):
    pytest.importorskip('mmpose')
    from mmpose.testing import get_packed_inputs
    config, units = POSE[name]
    simcc = dict(simcc_split_ratio=2.0, with_simcc_label=True) if 'RTM' in name else dict(with_heatmap=True)
    algorithm = prune_and_rebuild(f'mmpose::body_2d_keypoint/{config}.py', (1, 3, 256, 192), lambda: get_packed_inputs(
        4, num_keypoints=17, img_shape=(256, 192), input_size=(192, 256), heatmap_size=(48, 64), **simcc))
    assert len(algorithm.mutator.units) == units
