"""What a detector keeps is read from its ``test_cfg``; its NMS is switched off for a moment."""
import pytest
from mmengine.config import ConfigDict
from torch import nn

from mmprune.deploy.box_match import Rules
from mmprune.deploy.nms_candidates import ALL, rules_of, without_nms

NMS = dict(type='nms', iou_threshold=0.6)
FILE = dict(keep_top_k=100)


class Detector(nn.Module):
    """Has the settings of mmdet's detectors where they have them."""

    def __init__(self, head=nn.Identity, **settings):
        super().__init__()
        self.test_cfg = ConfigDict(settings)
        if 'rcnn' in settings:
            self.rpn_head, self.roi_head = nn.Identity(), nn.Identity()
            self.rpn_head.test_cfg, self.roi_head.test_cfg = self.test_cfg.rpn, self.test_cfg.rcnn
        else:
            self.bbox_head = head()
            self.bbox_head.test_cfg = self.test_cfg


class YOLOXHead(nn.Identity):
    pass


def two_stage():
    return Detector(rpn=dict(nms=dict(type='nms', iou_threshold=0.7), max_per_img=1000),
                    rcnn=dict(score_thr=0.05, nms=NMS, max_per_img=80))


@pytest.mark.parametrize(('model', 'rules'), [
    (Detector(score_thr=0.01, nms=NMS, max_per_img=50), Rules(0.01, 0.6, (50, 50))),
    (Detector(score_thr=0.01, nms=NMS), Rules(0.01, 0.6, (None, 100))),
    (Detector(YOLOXHead, score_thr=0.01, nms=NMS, max_per_img=50), Rules(0.01, 0.6, (None, 100))),
    (two_stage(), Rules(0.05, 0.6, (80, 80), True)),
    (Detector(score_thr=0.01, nms=dict(type='soft_nms', iou_threshold=0.6)), Rules(0.01, None, (None, 100))),
    (Detector(score_thr=0.01, nms=dict(NMS, class_agnostic=True)), Rules(0.01, None, (None, 100))),
    (Detector(max_per_img=300), Rules(0.0, None, (300, 300))),
    (nn.Identity(), Rules(0.0, None, (None, 100)))])
def test_rules(model, rules):
    assert rules_of(model, FILE) == rules


def test_nms_is_off_for_a_moment():
    model = Detector(score_thr=0.01, nms=NMS, max_per_img=50)
    before = model.test_cfg
    with without_nms(model, False):
        for settings in (model.test_cfg, model.bbox_head.test_cfg):
            assert (settings.nms.iou_threshold, settings.max_per_img, settings.score_thr) == (1.0, ALL, 0.01)
    assert model.test_cfg is before
    assert model.bbox_head.test_cfg is before
    assert (before.nms.iou_threshold, before.max_per_img) == (0.6, 50)


@pytest.mark.parametrize('more', [False, True])
def test_places_before_it_are_limited_unless_asked_for(more):
    model = Detector(score_thr=0.01, nms=NMS, nms_pre=1000)
    with without_nms(model, more):
        assert model.bbox_head.test_cfg.nms_pre == (ALL if more else 1000)
    assert model.bbox_head.test_cfg.nms_pre == 1000


@pytest.mark.parametrize('proposals', [False, True])
def test_that_of_proposals_stays_unless_asked_for(proposals):
    model = two_stage()
    with without_nms(model, proposals):
        assert model.roi_head.test_cfg.nms.iou_threshold == 1.0
        assert model.rpn_head.test_cfg.nms.iou_threshold == (1.0 if proposals else 0.7)
        assert model.rpn_head.test_cfg.max_per_img == (ALL if proposals else 1000)
    assert model.rpn_head.test_cfg.nms.iou_threshold == 0.7
