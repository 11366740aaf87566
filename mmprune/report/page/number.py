"""How numbers are written on the page."""
import math
from typing import Any, Optional

from ..points import in_points

#: What stands where nothing was measured.
NONE = '–'


def number(value: Any) -> Optional[float]:
    """Return a value that is a number as float, else None; booleans are none."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def metric(value: Optional[float]) -> str:
    """Return an accuracy, in per cent or as a share, with as many digits as tell networks apart."""
    return NONE if value is None else f'{value:.2f}' if abs(value) >= 10 else f'{value:.4f}'


def change(value: float, dense: float) -> str:
    """Return how many points a metric is above that of the dense network, with its sign."""
    points = in_points(value, dense) - in_points(dense, dense)
    size = f'{abs(points):.2f}'
    return f'±{size}' if not size.strip('0.') else f'{"+" if points > 0 else "−"}{size}'


def milliseconds(value: Optional[float]) -> str:
    """Return a time in milliseconds with its unit."""
    return NONE if value is None else f'{plain_ms(value)} ms'


def plain_ms(value: Optional[float]) -> str:
    """Return a time in milliseconds without its unit."""
    if value is None:
        return NONE
    return f'{value:.3f}' if value < 10 else f'{value:.2f}' if value < 100 else f'{value:.1f}'


def share(value: Optional[float]) -> str:
    """Return a share in per cent."""
    return NONE if value is None else f'{100 * value:.1f} %'


def count(value: Optional[float]) -> str:
    """Return a number of multiply-adds or parameters, in thousands, millions or billions."""
    if value is None:
        return NONE
    for size, name in ((1e9, ' G'), (1e6, ' M'), (1e3, ' k')):
        if value >= size:
            return f'{value / size:.3g}{name}' if value < 100 * size else f'{value / size:.0f}{name}'
    return f'{value:g}'


def times(value: Optional[float]) -> str:
    """Return a speed-up."""
    return NONE if value is None else f'{value:.2f}×'


def duration(seconds: float) -> str:
    """Return a time that a stage took, in seconds, minutes or hours."""
    if seconds < 90:
        return f'{seconds:.1f} s'
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f'{minutes} min {rest} s'
    return f'{minutes // 60} h {minutes % 60} min'


def ratio(above: Optional[float], below: Optional[float]) -> Optional[float]:
    """Return a quotient of two numbers, None where one is not known or it is none."""
    if above is None or not below or not math.isfinite(above / below):
        return None
    return above / below
