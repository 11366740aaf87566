"""What a detector of mmdet keeps of its boxes, and which boxes it had before its NMS."""
import copy
from contextlib import contextmanager
from typing import Any, Iterator, List, Mapping, Tuple

from torch import nn

from .box_match import Rules

#: Heads of mmdet that read no ``max_per_img``; their files have at most ``keep_top_k`` boxes.
WITHOUT_LIMIT = ('YOLOXHead', )
ALL = 10**6  # boxes


def rules_of(model: nn.Module, post_processing: Mapping[str, Any]) -> Rules:
    """Return what a detector keeps by its ``test_cfg``, and a file by ``post_processing`` of its deploy config, too.

    A NMS over all classes at once, or one that changes scores, is not known to mmdeploy and explains nothing.
    """
    settings = getattr(model, 'test_cfg', None) or {}
    two_stage = 'rcnn' in settings
    settings = settings.get('rcnn', settings)
    nms = settings.get('nms') or {}
    known = nms.get('type', 'nms') == 'nms' and not nms.get('class_agnostic')
    keep, limit = post_processing.get('keep_top_k'), settings.get('max_per_img')
    heads = {base.__name__ for base in type(getattr(model, 'bbox_head', None)).__mro__}
    most = (None, keep) if heads.intersection(WITHOUT_LIMIT) else (limit, limit or keep)
    return Rules(settings.get('score_thr') or 0.0, nms.get('iou_threshold') if known else None, most, two_stage)


@contextmanager
def without_nms(model: nn.Module, more: bool) -> Iterator[None]:
    """Let a detector return all boxes that its last NMS gets; with ``more`` those of all proposals, or all places."""
    changed: List[Tuple[nn.Module, Any]] = []
    for module in model.modules():
        settings = getattr(module, 'test_cfg', None)
        if isinstance(settings, Mapping) and settings.get('nms') and (more or 'score_thr' in settings):
            changed.append((module, settings))
            module.test_cfg = copy.deepcopy(settings)
            module.test_cfg['nms']['iou_threshold'] = 1.0
            module.test_cfg['max_per_img'] = ALL
            if more and 'score_thr' in settings:
                module.test_cfg['nms_pre'] = ALL
    try:
        yield
    finally:
        for module, settings in changed:
            module.test_cfg = settings
