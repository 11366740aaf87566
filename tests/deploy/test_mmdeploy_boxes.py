"""The heads of an exported detector give the boxes that mmdet's own functions give, on random outputs of two images."""
import pytest
import torch
from mmengine.config import ConfigDict
from paths import ROOT

from mmprune.arguments import UserError
from mmprune.models.from_config import read_config
from mmprune.registry import load_plugins

pytest.importorskip('mmdeploy')
pytest.importorskip('mmdet')
pytestmark = [pytest.mark.full, pytest.mark.filterwarnings('ignore')]
METAS = [dict(img_shape=(96, 96), scale_factor=(1, 1))] * 2
SIZES = (12, 6)  # of the two levels
NMS = dict(type='nms', iou_threshold=0.6)


@pytest.fixture(scope='module')
def deployed():
    """Return a function that calls ``predict_by_feat`` as an export does, mmdeploy's own rewriters loaded first."""
    from mmdeploy.codebase import import_codebase
    from mmdeploy.core import RewriterContext
    from mmdeploy.utils import Codebase
    import_codebase(Codebase.MMDET)
    load_plugins()
    cfg = read_config(str(ROOT / 'configs/deploy/detection_onnxruntime_dynamic.py'))

    def call(head, *args, keep=100, **kwargs):
        cfg.codebase_config.post_processing.keep_top_k = keep
        with RewriterContext(cfg, backend='onnxruntime'):
            return head.predict_by_feat(*args, **kwargs)

    return call


def levels(channels):
    return [torch.randn(2, channels, size, size) for size in SIZES]


def assert_same(wanted, dets, labels=None):
    """Compare image by image; the rows that fill a batch up have no score, and boxes without an area do not count."""
    for i, one in enumerate(wanted):
        rows = (dets[i, :, 4] > 0) & (dets[i, :, 2:4] > dets[i, :, :2]).all(1)
        one = one[(one.bboxes[:, 2:] > one.bboxes[:, :2]).all(1)]
        one = one[one.scores.argsort(descending=True)]
        assert len(one) > 5
        torch.testing.assert_close(dets[i][rows], torch.cat([one.bboxes, one.scores[:, None]], 1), rtol=1e-5, atol=1e-5)
        if labels is not None:
            assert torch.equal(labels[i][rows], one.labels)


@pytest.mark.parametrize('sigmoid', [True, False])
@pytest.mark.parametrize('smallest', [-1, 0, 12])
@pytest.mark.parametrize('before', [-1, 50, 1000])  # none, fewer and more than a level has
def test_proposals(sigmoid, smallest, before, deployed):
    from mmdet.models.dense_heads import RPNHead
    head = RPNHead(
        in_channels=8, feat_channels=8,
        anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[0.5, 1., 2.], strides=[8, 16]),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.] * 4, target_stds=[1.] * 4),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=sigmoid),
        test_cfg=ConfigDict(nms_pre=before, max_per_img=100, nms=NMS, min_bbox_size=smallest))
    outputs = levels(3 * head.cls_out_channels), levels(3 * 4)
    wanted = head.predict_by_feat(*outputs, batch_img_metas=METAS, rescale=False)
    assert_same(wanted, deployed(head, *outputs, batch_img_metas=METAS)[0])


@pytest.mark.parametrize('agnostic', [True, False])
@pytest.mark.parametrize('most', [100, -1])
def test_boxes_of_regions(agnostic, most, deployed):
    from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
    head = Shared2FCBBoxHead(in_channels=4, fc_out_channels=8, roi_feat_size=1, num_classes=5,
                             reg_class_agnostic=agnostic, bbox_coder=dict(
                                 type='DeltaXYWHBBoxCoder', target_means=[0.] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]))
    corner, size = torch.rand(2, 60, 2) * 60, torch.rand(2, 60, 2) * 40 + 5
    rois = torch.cat([torch.arange(2.).view(2, 1, 1).expand(2, 60, 1), corner, corner + size], -1)
    scores, offsets = 2 * torch.randn(2, 60, 6), torch.randn(2, 60, 4 if agnostic else 20)
    settings = ConfigDict(score_thr=0.05, nms=NMS, max_per_img=most)
    wanted = head.predict_by_feat(list(rois), list(scores), list(offsets), batch_img_metas=METAS,
                                  rcnn_test_cfg=settings)
    assert_same(wanted, *deployed(head, rois, scores, offsets, batch_img_metas=METAS, rcnn_test_cfg=settings))
    settings.nms = dict(NMS, class_agnostic=True)
    with pytest.raises(UserError, match='class_agnostic'):
        deployed(head, rois, scores, offsets, batch_img_metas=METAS, rcnn_test_cfg=settings)


@pytest.mark.parametrize('settings', [dict(), dict(max_per_img=10)])  # which mmdet's own does not read
def test_yolox(settings, deployed):
    from mmdet.models.dense_heads import YOLOXHead
    head = YOLOXHead(num_classes=4, in_channels=8, feat_channels=8, strides=[8, 16],
                     test_cfg=ConfigDict(score_thr=0.01, nms=NMS, **settings))
    outputs = levels(4), levels(4), levels(1)
    wanted = head.predict_by_feat(*outputs, batch_img_metas=METAS)
    assert_same(wanted, *deployed(head, *outputs, batch_img_metas=METAS, keep=1000))


@pytest.mark.parametrize('clip', [True, False])
def test_rtmdet(clip, deployed):
    from mmdet.models.dense_heads import RTMDetHead
    head = RTMDetHead(num_classes=4, in_channels=8, feat_channels=32, with_objectness=False,
                      anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16]),
                      bbox_coder=dict(type='DistancePointBBoxCoder', clip_border=clip),
                      loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True), loss_bbox=dict(type='GIoULoss'),
                      test_cfg=ConfigDict(score_thr=0.001, nms_pre=30000, min_bbox_size=0, nms=NMS, max_per_img=300))
    outputs = levels(4), [6 + 8 * level for level in levels(4)]  # some distances are negative: boxes without an area
    wanted = head.predict_by_feat(*outputs, batch_img_metas=METAS)
    assert_same(wanted, *deployed(head, *outputs, batch_img_metas=METAS))
