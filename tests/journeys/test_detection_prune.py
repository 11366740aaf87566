"""Two-stage detectors are pruned exactly through the regions that their second stage reads."""
import pytest
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.registry import init_default_scope

from mmprune.registry import MODELS
from mmprune.report import proof as check
from mmprune.units.mutator import ChannelMutator

pytestmark = pytest.mark.full


def test_second_stage_is_pruned_exactly_through_its_regions():
    """conv -> RoIAlign -> flatten -> linear, and the number of channels that the extractor keeps."""
    pytest.importorskip('mmdet')
    cfg = get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    init_default_scope(cfg.default_scope)
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
