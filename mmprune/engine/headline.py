"""The metric by which two networks are compared, and how many points one of them loses."""
from typing import Any, Mapping, Optional

from ..arguments import UserError, one_of

#: Metrics of which less is better, by the end of their names.
ERRORS = ('EPE', 'NME', 'MAE', 'RMSE', 'loss')


def headline(metrics: Mapping[str, float], cfg: Mapping[str, Any], wanted: Optional[str] = None) -> str:
    """Return the metric that counts.

    It is the one that is asked for, else that by which the config keeps its best checkpoint, else the mean intersection
    over union of a segmentor, else the first.

    Args:
        metrics (dict[str, float]): Of the evaluator.
        cfg (Config): Of the model.
        wanted (str, optional): A key of them.

    Raises:
        UserError: There is no such metric, or none at all.
    """
    if not metrics:
        raise UserError('the evaluator of the config gives no number')
    if wanted is not None:
        return one_of('--metric', wanted, list(metrics))
    best = ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('save_best')
    named = [best] if isinstance(best, str) else list(best or ())
    return next((name for name in (*named, 'mIoU') if name in metrics), next(iter(metrics)))


def points_lost(before: float, after: float, name: str) -> float:
    """Return how many points are lost: hundredths of what a metric can be, where that is 1.

    Args:
        before (float): The metric of one network.
        after (float): That of the other.
        name (str): Of the metric; of errors, less is better, and a point is 1.
    """
    if name.endswith(ERRORS):
        return after - before
    return (before - after) * (100 if max(before, after) <= 1 else 1)
