"""Exported detectors find the boxes that mmdet finds, where mmdeploy 1.3.1 approximates.

======== =========================================== ==================================================
part     mmdet                                       mmdeploy
======== =========================================== ==================================================
RPN      a NMS in each level, on all scores          one over all, without low scores
RoI head a box for each class of a region            all classes of a region get the box of the best
YOLOX    the best class of a place, any number       all its classes, ``max_per_img`` boxes
RTMDet   boxes end at the border, none without area  boxes as they are
======== =========================================== ==================================================

Each function here takes the place of mmdeploy's rewriter of ``predict_by_feat`` for onnxruntime: it gets the outputs of
a head and returns ``Tensor[N, K, 5]``, boxes and scores, the best first, and their classes ``Tensor[N, K]``. mmdeploy's
NMS knows one box a place and scores by class; where a box has one class only, its other scores are 0, which it drops.
"""
from typing import Any, Callable, Iterable, List, Mapping, Optional, Tuple

import torch
from mmdeploy.codebase.mmdet.deploy import gather_topk, get_post_processing_params
from mmdeploy.core import FUNCTION_REWRITER
from mmdeploy.mmcv.ops import multiclass_nms
from mmdeploy.utils import Backend
from torch import Tensor, nn

from ..arguments import UserError

#: Boxes of classes of regions that go into the last NMS, the best, where the deploy config sets no ``pre_top_k``.
REGION_BOXES = 5000
Settings = Mapping[str, Any]
Boxes = Tuple[Tensor, Tensor]


def _flat(levels: Iterable[Tensor], channels: int) -> List[Tensor]:
    """Return ``Tensor[N, A * H * W, channels]`` for each level ``Tensor[N, A * channels, H, W]``."""
    return [level.permute(0, 2, 3, 1).reshape(level.size(0), -1, channels) for level in levels]


def _of_one_class(scores: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return scores by class ``Tensor[N, B, classes]`` of boxes that have one, ``Tensor[N, B]`` both."""
    return scores.unsqueeze(-1) * (labels.unsqueeze(-1) == torch.arange(classes, device=labels.device))


def _with_area(scores: Tensor, boxes: Tensor, settings: Settings) -> Tensor:
    """Return scores ``Tensor[N, B, *]``, those of boxes that are too small 0."""
    least = settings.get('min_bbox_size', -1)
    if least < 0:
        return scores
    return scores * (boxes[..., 2:] - boxes[..., :2] > least).all(dim=-1, keepdim=True)


def _nms(boxes: Tensor, scores: Tensor, settings: Settings, params: Settings, threshold: float) -> Boxes:
    nms = settings.get('nms', {})
    if nms.get('class_agnostic'):
        raise UserError('this detector has a NMS over all classes at once (nms.class_agnostic), which mmdeploy cannot '
                        'export')
    keep = settings.get('max_per_img', params['keep_top_k'])
    return multiclass_nms(boxes, scores, keep if keep > 0 else params['max_output_boxes_per_class'],
                          nms_type=nms.get('type', 'nms'),
                          iou_threshold=nms.get('iou_threshold', params['iou_threshold']), score_threshold=threshold,
                          pre_top_k=params['pre_top_k'], keep_top_k=keep)


def _replaces(head: str) -> Callable[[Callable[..., Boxes]], Callable[..., Boxes]]:
    """Register a function for a head of mmdet; for a backend, it goes before mmdeploy's own for any."""
    return FUNCTION_REWRITER.register_rewriter(f'mmdet.models.{head}.predict_by_feat',
                                               backend=Backend.ONNXRUNTIME.value)


@_replaces('dense_heads.rpn_head.RPNHead')
def rpn_head__predict_by_feat(self: nn.Module, cls_scores: List[Tensor], bbox_preds: List[Tensor],
                              score_factors: Optional[List[Tensor]] = None,
                              batch_img_metas: Optional[List[Settings]] = None, cfg: Optional[Settings] = None,
                              rescale: bool = False, with_nms: bool = True) -> Boxes:
    """Return proposals; their classes are their levels."""
    params = get_post_processing_params(FUNCTION_REWRITER.get_context().cfg)
    settings = self.test_cfg if cfg is None else cfg
    levels, batch = len(cls_scores), cls_scores[0].size(0)
    anchors = self.prior_generator.grid_priors([level.shape[-2:] for level in cls_scores], device=cls_scores[0].device)
    logits = _flat(cls_scores, self.cls_out_channels)
    parts = []
    for level, (scores, offsets, priors) in enumerate(zip(logits, _flat(bbox_preds, 4), anchors)):
        scores = (scores.sigmoid() if self.use_sigmoid_cls else scores.softmax(dim=-1))[..., 0]
        priors = priors.expand(batch, -1, -1)
        if settings.get('nms_pre', -1) > 0:
            scores, best = scores.topk(settings['nms_pre'])  # or all that there are
            offsets = gather_topk(offsets, inds=best, batch_size=batch)
            priors = gather_topk(priors, inds=best, batch_size=batch)
        parts.append((priors, offsets, _of_one_class(scores, torch.full_like(scores, level), levels)))
    priors, offsets, scores = (torch.cat(several, dim=1) for several in zip(*parts))
    boxes = self.bbox_coder.decode(priors, offsets, max_shape=_shape(batch_img_metas))
    return _nms(boxes, _with_area(scores, boxes, settings), settings, dict(params, pre_top_k=-1), 0.0)


def _shape(metas: Optional[List[Settings]]) -> Any:
    """Return the height and width of all images."""
    return metas[0]['img_shape'] if metas else None


@_replaces('roi_heads.bbox_heads.bbox_head.BBoxHead')
def bbox_head__predict_by_feat(self: nn.Module, rois: Tensor, cls_scores: Tensor, bbox_preds: Tensor,
                               batch_img_metas: List[Settings], rcnn_test_cfg: Optional[Settings] = None,
                               rescale: bool = False) -> Boxes:
    """Return the boxes of regions ``Tensor[N, P, 5]``, each a number of an image and a box."""
    settings = rcnn_test_cfg or {}
    params = get_post_processing_params(FUNCTION_REWRITER.get_context().cfg)
    classes, batch = self.num_classes, rois.size(0)
    scores = self.loss_cls.get_activation(cls_scores) if self.custom_cls_channels else cls_scores.softmax(dim=-1)
    scores = scores[..., :classes]  # the last is the background
    boxes = self.bbox_coder.decode(rois[..., 1:], bbox_preds, max_shape=_shape(batch_img_metas))
    if not self.reg_class_agnostic:
        most = params['pre_top_k'] if params['pre_top_k'] > 0 else REGION_BOXES
        scores, best = scores.reshape(batch, -1).topk(most)  # or all that there are
        boxes = gather_topk(boxes.reshape(batch, -1, 4), inds=best, batch_size=batch)
        scores = _of_one_class(scores, best % classes, classes)
    return _nms(boxes, scores, settings, params, settings.get('score_thr', params['score_threshold']))


@_replaces('dense_heads.yolox_head.YOLOXHead')
def yolox_head__predict_by_feat(self: nn.Module, cls_scores: List[Tensor], bbox_preds: List[Tensor],
                                objectnesses: List[Tensor], batch_img_metas: Optional[List[Settings]] = None,
                                cfg: Optional[Settings] = None, rescale: bool = False,
                                with_nms: bool = True) -> Boxes:
    """Return boxes, each of the best class of its place."""
    params = get_post_processing_params(FUNCTION_REWRITER.get_context().cfg)
    settings = self.test_cfg if cfg is None else cfg
    priors = self.prior_generator.grid_priors([level.shape[2:] for level in cls_scores], device=cls_scores[0].device,
                                              with_stride=True)
    boxes = self._bbox_decode(torch.cat(priors), torch.cat(_flat(bbox_preds, 4), dim=1))
    best, labels = torch.cat(_flat(cls_scores, self.cls_out_channels), dim=1).sigmoid().max(dim=-1)
    scores = best * torch.cat(_flat(objectnesses, 1), dim=1).squeeze(-1).sigmoid()
    settings = dict(settings, max_per_img=params['keep_top_k'])  # mmdet's knows no limit, and reads none
    return _nms(boxes, _of_one_class(scores, labels, self.cls_out_channels), settings, params,
                settings.get('score_thr', params['score_threshold']))


@_replaces('dense_heads.rtmdet_head.RTMDetHead')
def rtmdet_head__predict_by_feat(self: nn.Module, cls_scores: List[Tensor], bbox_preds: List[Tensor],
                                 batch_img_metas: Optional[List[Settings]] = None, cfg: Optional[Settings] = None,
                                 rescale: bool = False, with_nms: bool = True) -> Boxes:
    """Return boxes that end where the image does."""
    params = get_post_processing_params(FUNCTION_REWRITER.get_context().cfg)
    settings = self.test_cfg if cfg is None else cfg
    priors = self.prior_generator.grid_priors([level.shape[2:] for level in cls_scores], device=cls_scores[0].device)
    distances = torch.cat(_flat(bbox_preds, 4), dim=1)
    boxes = self.bbox_coder.decode(torch.cat(priors).expand(distances.size(0), -1, -1), distances,
                                   max_shape=_shape(batch_img_metas))
    scores = torch.cat(_flat(cls_scores, self.cls_out_channels), dim=1).sigmoid()
    return _nms(boxes, _with_area(scores, boxes, settings), settings, params,
                settings.get('score_thr', params['score_threshold']))
