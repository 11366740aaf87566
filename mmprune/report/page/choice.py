"""The curve that a target was chosen from: accuracy against milliseconds, repaired and not trained."""
from typing import Any, Dict, List, Mapping

from ...arguments import UserError
from ...files import read_json
from . import number as text
from .content import Chart, Charts, Paragraph, Section, Series, Table
from .number import number
from .road import Road

#: File in the folder.
CURVE = 'curve/curve.json'


def choice_sections(road: Road) -> List[Section]:
    """Return the curve as a section of its own; none where it was not measured."""
    path = road.folder / CURVE
    if not path.exists():
        return []
    section = Section('choice', 'The curve to choose from')
    try:
        points = [point for point in read_json(path, 'the curve') if isinstance(point, dict)]
    except (UserError, TypeError) as error:
        section.blocks.append(Paragraph(road.told(f'The curve cannot be shown: {error}'), missing=True))
        return [section]
    section.blocks.append(Paragraph('Measured before the target was chosen: networks that are cut and repaired by a '
                                    'few images, and not trained. Finetuning wins back much of what they lose. '
                                    'Milliseconds are those of the latency table.'))
    section.blocks.append(_table(points, road.metric_name))
    line = [(ms, value) for ms, value in ((number(point.get('ms')), _metric(point, road.metric_name))
                                          for point in points) if ms is not None and value is not None]
    if len(line) > 1:
        title = f'{road.metric_name} over milliseconds, not trained'
        section.blocks.append(Charts([Chart('curve', title, 'milliseconds', [Series('kept', sorted(line))])]))
    return [section]


def _metric(point: Mapping[str, Any], name: str) -> Any:
    metrics: Dict[str, Any] = point.get('metrics') or {}
    return number(metrics.get(name))


def _table(points: List[Dict[str, Any]], name: str) -> Table:
    """Return a row for each point; the first is the dense network."""
    dense = _metric(points[0], name) if points else None
    rows = []
    for point in points:
        value = _metric(point, name)
        change = text.NONE if value is None or dense is None else text.change(value, dense)
        rows.append([text.milliseconds(number(point.get('ms'))), text.metric(value), change,
                     *(text.share(number(point.get(cost))) for cost in ('latency', 'flops', 'params'))])
    return Table(['time', name, 'points', 'time left', 'multiply-adds left', 'parameters left'], rows, left=())
