"""The metric by which networks are compared."""
from typing import Any, Mapping, Optional

from ..arguments import UserError, one_of

#: Where the config does not say which is best: the first of these that the evaluator has, else its first.
KNOWN = ('accuracy/top1', 'coco/bbox_mAP', 'coco/AP', 'pascal_voc/mAP', 'mIoU', 'PCK', 'AUC')


def headline(metrics: Mapping[str, float], cfg: Mapping[str, Any], wanted: Optional[str] = None) -> str:
    """Return the metric that counts.

    It is the one that is asked for, else that by which the config keeps its best checkpoint, else one of :data:`KNOWN`,
    else the first.

    Args:
        metrics (dict[str, float]): Of the evaluator.
        cfg (Config): Of the model.
        wanted (str, optional): A key of them.

    Raises:
        UserError: There is no such metric, or none at all.
    """
    if not metrics:
        raise UserError('the evaluator of the config gives no number, so nothing says what a network is worth')
    if wanted is not None:
        return one_of('--metric', wanted, list(metrics))
    best = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('save_best')
    named = [best] if isinstance(best, str) else list(best or ())
    return next((name for name in (*named, *KNOWN) if name in metrics), next(iter(metrics)))
