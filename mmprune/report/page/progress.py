"""How the runs went: loss, validation and what was left, from the scalars that mmengine writes."""
import json
import math
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from .content import Block, Chart, Charts, Code, Paragraph, Section, Series
from .number import number
from .road import WHAT, Road

#: Files of a run below its folder: one for each time that it was started, and the newest where the folder is one's own.
SCALARS = ('*/vis_data/scalars.json', 'vis_data/scalars.json')
#: Points that a line is drawn with at most.
MOST = 240
#: Stages that train.
RUNS = ('prune', 'finetune')
#: What a prune run writes of the cost that is left -> its name.
LEFT = {'flops_ratio': 'share of the multiply-adds that is left',
        'params_ratio': 'share of the parameters that is left',
        'acts_ratio': 'share of the activations that is left', 'latency_ratio': 'share of the time that is left'}

Points = List[Tuple[float, float]]
Line = Dict[str, Any]


def read_scalars(folder: Path) -> List[Line]:
    """Return the lines of a run's scalars in the order in which they were written; damaged ones are left out."""
    lines: List[Line] = []
    for pattern in SCALARS:
        for path in sorted(folder.glob(pattern)):
            for text in path.read_text(encoding='utf-8', errors='replace').splitlines():
                try:
                    value = json.loads(text)
                except ValueError:  # the last line of a run that was killed
                    continue
                if isinstance(value, dict) and number(value.get('step')) is not None:
                    lines.append(value)
    return lines


def progress_section(road: Road) -> Section:
    """Return charts of the runs that are done."""
    section = Section('progress', 'How the runs went')
    for stage in RUNS:
        if stage in road.records:
            section.blocks += _run(road, stage)
    if not section.blocks:
        section.blocks.append(Paragraph('No run is done yet.', missing=True))
    return section


def _run(road: Road, stage: str) -> List[Block]:
    name, log = WHAT[stage].capitalize(), road.path(stage, 'log')
    if log is None:
        return [Paragraph(f'{name}: the record names no folder with a log.', missing=True)]
    lines = read_scalars(log)
    charts = run_charts(lines, stage, road.plan.metric, road.plan.target)
    if not charts:
        return [Paragraph([f'{name}: there are no scalars in ', Code(road.get(stage, 'log')),
                           '; a network that is cut at once, without training, writes none.'])]
    return [Paragraph(f'{name}:'), Charts(charts)]


def run_charts(lines: Sequence[Line], stage: str, metric: str, target: Dict[str, float]) -> List[Chart]:
    """Return the charts of a run.

    Args:
        lines (list[dict]): Its scalars; those of training have an ``iter``, those of validation have none.
        stage (str): What the charts are named after.
        metric (str): Of the validation.
        target (dict[str, float]): What was asked; its height is marked.
    """
    training = [line for line in lines if 'iter' in line]
    charts = [_chart(f'{stage}_loss', 'training loss', 'iteration', _points(training, 'loss', _mean), zero=True)]
    for name, title in LEFT.items():
        asked = number(target.get(name[:-len('_ratio')]))
        charts.append(_chart(f'{stage}_{name}', title, 'iteration', _points(lines, name, min), 'kept', asked, True))
    tested = [line for line in lines if 'iter' not in line and metric in line]
    charts.append(_chart(f'{stage}_metric', f'{metric}, validation', _unit_of(training, tested),
                         _points(tested, metric, _last), 'kept'))
    return [chart for chart in charts if chart is not None]


def _unit_of(training: Sequence[Line], tested: Sequence[Line]) -> str:
    """Return what the steps of a validation count: epochs, where none is above the last epoch of training."""
    epochs = max((number(line.get('epoch')) or 0 for line in training), default=0)
    return 'epoch' if all(number(line['step']) <= epochs for line in tested) else 'iteration'  # type: ignore[operator]


def _points(lines: Sequence[Line], key: str, of_bin: Callable[[List[float]], float]) -> Points:
    """Return (step, value), a later line for the same step counts; long lines are thinned out in bins."""
    values: Dict[float, float] = {}
    for line in lines:
        step, value = number(line['step']), number(line.get(key))
        if step is not None and value is not None and math.isfinite(value):
            values[step] = value
    points = sorted(values.items())
    size = -(-len(points) // MOST)
    if size <= 1:
        return points
    bins = [points[start:start + size] for start in range(0, len(points), size)]
    return [(several[-1][0], of_bin([value for _, value in several])) for several in bins]


def _mean(values: List[float]) -> float:
    return sum(values) / len(values)


def _last(values: List[float]) -> float:
    return values[-1]


def _chart(name: str, title: str, x: str, points: Points, kind: str = 'dense',
           mark: Optional[float] = None, zero: bool = False) -> Optional[Chart]:
    """Return a chart of a line; None where it has no point."""
    return Chart(name, title, x, [Series(kind, points)], zero, mark) if points else None
