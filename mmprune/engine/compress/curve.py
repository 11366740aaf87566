"""Accuracy against milliseconds before any training: the table to choose a target from."""
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

from ...arguments import UserError
from ...files import read_json
from ...report.points import drop, in_points
from ..schedules.accuracy_curve import CURVE_JSON
from .configs import CURVE, CURVE_SHARES, RoadConfigs
from .road import Road

FOLDER = 'curve'


def run_curve(road: Road, configs: RoadConfigs) -> List[Dict[str, Any]]:
    """Return the points of the curve, after they have been measured unless they had been before."""
    path = road.folder / FOLDER / CURVE_JSON
    if not is_complete(path):
        configs.write_dense()
        configs.write_curve()
        road.say(f'curve: accuracy at {len(CURVE_SHARES)} shares of the time, repaired and not trained '
                 f'(log: {road.log("curve")}) ...')
        road.command(['train', configs.path(CURVE), '--work-dir', str(road.folder / FOLDER), '--resume'], 'curve')
    points: List[Dict[str, Any]] = read_json(path, 'the curve')
    return points


def is_complete(path: Path) -> bool:
    """Tell whether a file holds a point for each share."""
    return path.exists() and len(read_json(path, 'the curve')) == len(CURVE_SHARES) + 1


def format_curve(points: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Return a table: a row for each point, what it loses in points of the metric."""
    dense = points[0]['metrics'][metric]
    lines = [f'{"time":>6}{"ms":>9}{"FLOPs":>8}{"params":>8}{metric:>{max(16, len(metric) + 2)}}{"change":>9}']
    for point in points:
        value = point['metrics'].get(metric, 0.0)
        change = 0.0 - drop(metric, dense, value)
        lines.append(f'{point["latency"]:>6.0%}{point["ms"]:>9.2f}{point["flops"]:>8.0%}{point["params"]:>8.0%}'
                     f'{in_points(value, dense):>{max(16, len(metric) + 2)}.2f}{change:>+9.2f}')
    return '\n'.join(lines)


def point_within(points: Sequence[Mapping[str, Any]], metric: str, allowed: float) -> Mapping[str, Any]:
    """Return the fastest point that loses at most so many points of a metric; none behind it may lose more.

    Raises:
        UserError: All of them lose more.
    """
    dense, found = points[0]['metrics'][metric], None
    for point in points[1:]:
        if drop(metric, dense, point['metrics'].get(metric, 0.0)) > allowed:
            break
        found = point
    if found is None:
        first = points[1]
        raise UserError(f'--max-drop {allowed:g}: at {first["latency"]:.0%} of the time {metric} falls by '
                        f'{drop(metric, dense, first["metrics"].get(metric, 0.0)):.2f} points before any training; '
                        'finetuning wins most of it back, so give a --target')
    return found
