"""Metrics in points: how much better or worse one network is than another, in hundredths of what is possible."""

#: Parts of the names of metrics that are better the smaller they are.
ERRORS = ('loss', 'error', 'NME', 'EPE', 'MPJPE', 'MAE', 'RMSE')


def in_points(value: float, dense: float) -> float:
    """Return a metric as people say it: a share as per cent, what is in per cent already as it is.

    Args:
        value (float): Of any network.
        dense (float): The same metric of the dense one: at most 1 where the metric is a share.
    """
    return value * 100 if abs(dense) <= 1 else value


def drop(metric: str, dense: float, now: float) -> float:
    """Return how many points a network is worse than the dense one; below 0 where it is better."""
    sign = -1 if any(part in metric for part in ERRORS) else 1
    return sign * (in_points(dense, dense) - in_points(now, dense))
