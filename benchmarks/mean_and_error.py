"""The mean of what seeds have given, with its standard error."""
import math
import statistics
from typing import Sequence


def error_of(values: Sequence[float]) -> float:
    """Return the standard error of a mean; infinity for one value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf


def mean_and_error(values: Sequence[float], digits: int, sign: str = '') -> str:
    """Return the mean, and its standard error where there are two values."""
    mean = f'{statistics.fmean(values):{sign}.{digits}f}'
    return mean if len(values) < 2 else f'{mean} ± {error_of(values):.{digits}f}'
