"""A table of the stages of pruning: accuracy, costs and latency, a row for each stage."""
from dataclasses import dataclass
from typing import Optional, Sequence

from ..arguments import UserError

HEADER = ('stage', 'accuracy (%)', 'MACs (M)', 'params (M)', 'latency (ms)')
MISSING = '-'


@dataclass
class StageResult:
    """A row of the table; what was not measured is None."""

    stage: str  # dense, pruned, finetuned...
    accuracy: Optional[float] = None  # top-1, in per cent
    macs: Optional[int] = None  # multiply-adds of conv and linear layers for one call
    params: Optional[int] = None
    latency_ms: Optional[float] = None  # milliseconds of a forward pass


def format_stages(stages: Sequence[StageResult], markdown: bool = False) -> str:
    """Return a table with a row for each stage; costs also as a share of those of the first, the dense model.

    Args:
        stages (list[StageResult]): Values that are None are shown as ``-``.
        markdown (bool): Return a markdown table instead of aligned text.

    Raises:
        UserError: No stage is given.
    """
    if not stages:
        raise UserError('a table needs at least one stage')
    rows = [HEADER, *(_cells(stage, stages[0]) for stage in stages)]
    if markdown:
        lines = [f'| {" | ".join(row)} |' for row in rows]
        return '\n'.join([lines[0], '| --- |' + ' ---: |' * (len(HEADER) - 1), *lines[1:]])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ['  '.join(cell.ljust(width) if i == 0 else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(row, widths))) for row in rows]
    return '\n'.join([lines[0], '-' * len(lines[0]), *lines[1:]])


def _cells(stage: StageResult, first: StageResult) -> Sequence[str]:
    def cost(value: Optional[float], dense: Optional[float], scale: float, digits: int) -> str:
        if value is None:
            return MISSING
        share = f' ({value / dense:.0%})' if dense and stage is not first else ''
        return f'{value / scale:.{digits}f}{share}'

    accuracy = MISSING if stage.accuracy is None else f'{stage.accuracy:.2f}'
    return (stage.stage, accuracy, cost(stage.macs, first.macs, 1e6, 2), cost(stage.params, first.params, 1e6, 3),
            cost(stage.latency_ms, first.latency_ms, 1, 3))

