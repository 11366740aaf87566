"""What a stage gave, in a few words, for the line of its progress."""
from typing import Any, List, Mapping, Optional, Sequence

from ...report.points import drop, in_points
from ...report.stage_record import StageRecord


class Summary:
    """Says what the record of a stage holds.

    Args:
        metric (str, optional): By which networks are compared; None until the dense one is tested.
        dense (float): What the dense network has.
    """

    def __init__(self, metric: Optional[str] = None, dense: float = 0.0) -> None:
        self.metric, self.dense = metric, dense
        self._pruned: Optional[float] = None

    def take(self, metric: str, metrics: Mapping[str, float]) -> None:
        """Compare by a metric, of which the dense network has so much."""
        self.metric, self.dense = metric, metrics[metric]

    def __call__(self, record: StageRecord) -> str:
        """Return the words."""
        result, parts = record.result, []  # type: ignore[var-annotated]
        if 'reached' in result:
            parts.append(', '.join(f'{name} {share:.3f} of dense' for name, share in result['reached'].items()))
        if 'epochs' in result:
            parts.append(f'{result["epochs"]} epochs' if result['epochs'] < 1000 else f'{result["epochs"]} iterations')
        parts += self._metrics(result) + self._warnings(record)
        if 'times' in result:
            parts.append(', '.join(f'{name.replace("_", " ")} {one["median"]:.2f} ms'
                                   for name, one in result['times'].items()))
        return '; '.join(parts)

    def _metrics(self, result: Mapping[str, Any]) -> List[str]:
        """Return the metric in points, where there is one."""
        metrics = result.get('metrics') or {}
        if self.metric is None or self.metric not in metrics:
            return []
        return [f'{self.metric} {in_points(metrics[self.metric], self.dense):.2f}']


    def _warnings(self, record: StageRecord) -> List[str]:
        """Return that the finetuning made it worse, where it did."""
        value, before = (record.result.get('metrics') or {}).get(self.metric), self._pruned
        if record.stage == 'prune':
            self._pruned = value
        if record.stage != 'test' or value is None or before is None or drop(str(self.metric), before, value) <= 0:
            return []
        return [f'worse than before the finetuning ({in_points(before, self.dense):.2f}): a lower --lr-ratio, a longer '
                '--finetune or none (0) may keep more']


def format_end(records: Sequence[StageRecord], metric: str) -> str:
    """Return what was gained and lost, in two lines or three."""
    by_name = {record.stage: record.result for record in records}
    dense = by_name['dense']['metrics'][metric]
    lines = []
    for stage, name in (('test', 'finetuned'), ('test-deployed', 'deployed'), ('int8', 'INT8')):
        found = (by_name.get(stage) or {}).get('metrics') or {}
        if metric in found:
            lost = drop(metric, dense, found[metric])
            lines.append(f'{name}: {metric} {in_points(found[metric], dense):.2f}, dense '
                         f'{in_points(dense, dense):.2f} ({0.0 - lost:+.2f} points)')
    times = {**by_name.get('deploy', {}).get('times', {}), **by_name.get('int8', {}).get('times', {})}
    if {'dense', 'pruned'} <= set(times):
        fastest = min((name for name in times if name.startswith('pruned')), key=lambda name: times[name]['median'])
        lines.append(f'{times[fastest]["median"]:.2f} ms ({fastest.replace("_", " ")}) instead of '
                     f'{times["dense"]["median"]:.2f} ms: {times["dense"]["median"] / times[fastest]["median"]:.2f} '
                     'times as fast')
    return '\n'.join(lines)
