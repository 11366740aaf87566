"""The page of equal_time.py: what each way leaves at the same milliseconds, and which is better by how much."""
import statistics
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from mean_and_error import error_of, mean_and_error
from remarks import with_remarks

from mmprune.files import read_json

PAGE = Path(__file__).resolve().parents[1] / 'docs' / 'equal_time.md'
FIRST = 'latency'
Row = Mapping[str, Any]


def results_of(folder: Path) -> Dict[str, Tuple[Row, List[Row]]]:
    """Return network -> what is known of the dense one, and all rows that were timed."""
    found = {}
    for dense in sorted(folder.glob('*/dense.json')):
        rows = [read_json(path, 'result') for path in sorted(dense.parent.glob('*_*_*.json'))]
        found[dense.parent.name] = (read_json(dense, 'result'), [row for row in rows if 'ms' in row])
    return found


def verdict(differences: Sequence[float], larger_is_better: bool) -> str:
    """Return whether a target in time is better, of what it leaves less what the other way leaves, seed by seed."""
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return 'one seed'
    if abs(mean) <= 2 * error_of(differences):
        return 'within two standard errors'
    return 'latency is better' if (mean > 0) == larger_is_better else 'latency is worse'


def table(rows: Sequence[Row], metrics: Sequence[str]) -> List[str]:
    """Return the lines of a table with a row for each share and way."""
    names = ' | '.join(['asked', 'way', 'seeds', 'rounds', 'share of dense', 'ms', 'dense ms', 'FLOPs left', 'deployed',
                        *metrics])
    lines = [f'| {names} |',
             f'|{" ---: | --- |" + " ---: |" * (7 + len(metrics))}']
    for asked, way in dict.fromkeys((row['asked'], row['way']) for row in _in_order(rows)):
        own = [row for row in rows if (row['asked'], row['way']) == (asked, way)]
        fine = 3 if own[0]['dense_ms'] < 1 else 2
        cells = [f'{asked:g}', way, str(len(own)), '-'.join(map(str, sorted({row['rounds'] for row in own}))),
                 *(mean_and_error([row[key] for row in own], digits)
                   for key, digits in (('share', 3), ('ms', fine), ('dense_ms', fine), ('flops', 3),
                                      ('deployed_flops', 3))),
                 *(mean_and_error([row[name] for row in own], 3 if name == 'loss' else 1) for name in metrics)]
        lines.append(f'| {" | ".join(cells)} |')
    return lines


def differences(rows: Sequence[Row], metrics: Sequence[str]) -> List[str]:
    """Return the lines of a table of a target in time less the other ways, seed by seed."""
    lines = [f'| asked | latency less | time (farthest seed) | {" | ".join(f"{name} | verdict" for name in metrics)} |',
             f'|{" ---: | --- | ---: |" + " ---: | --- |" * len(metrics)}']
    for asked, way in dict.fromkeys((row['asked'], row['way']) for row in _in_order(rows)):
        pairs = [(one, other) for one in rows for other in rows if one['way'] == FIRST and other['way'] == way != FIRST
                 and one['asked'] == other['asked'] == asked and one['seed'] == other['seed']]
        if pairs:
            offsets = [a['share'] / b['share'] - 1 for a, b in pairs]
            cells = [f'{asked:g}', way, f'{statistics.fmean(offsets):+.1%} ({max(offsets, key=abs):+.1%})']
            for name in metrics:
                values = [a[name] - b[name] for a, b in pairs]
                cells += [mean_and_error(values, 3 if name == 'loss' else 1, '+'), verdict(values, name != 'loss')]
            lines.append(f'| {" | ".join(cells)} |')
    return lines


def _in_order(rows: Sequence[Row]) -> List[Row]:
    return sorted(rows, key=lambda row: (-row['asked'], row['way'] != FIRST, row['way'] != 'flops, padded'))


def section(name: str, dense: Row, rows: Sequence[Row]) -> List[str]:
    """Return what is said of one network."""
    metrics = [key for key in ('top-1', 'AP', 'AP50', 'loss') if key in dense]
    whole = ', '.join(f'{key} {dense[key]:.{3 if key == "loss" else 1}f}' for key in metrics)
    losses = dict(own="the network's own loss", outputs='the loss of the outputs')
    scored = ', '.join(losses[one] for one in sorted({row.get('scored_by', 'own') for row in rows}))
    return [f'## {name}', '', f'Dense: {whole}. Table: {dense["networks"]} networks, blocks of {dense["block"]} '
            f'channels; R2 {dense["r2"]:.4f}, largest error {dense["largest_error"]:.1%} on networks that it had not '
            f'seen. {dense["date"]}, {dense["machine"]}; {dense["threads"]} thread{"s" * (dense["threads"] != 1)}. '
            f'Scored by {scored}.', '', *table(rows, metrics), '', *differences(rows, metrics), '']


def document(folder: Path, about: str) -> str:
    """Return the page.

    Args:
        folder (Path): Of the results.
        about (str): What was done.
    """
    lines = ['# Accuracy at equal milliseconds', '', about, '',
             '- command: `MMPRUNE_DATA=... python benchmarks/equal_time.py --only NETWORK --shares SHARE --rounds N`, '
             'with the shares and rounds of the tables, then `--write`', '',
             'Mean and standard error over the seeds, which draw the calibration images. Times are medians over nine '
             'fresh processes, all networks of a share and the dense one in turns in the same session. A difference is '
             'taken seed by seed; a verdict needs two standard errors. FLOPs are multiply-adds; `deployed` '
             'are those with the padding.', '']
    for name, (dense, rows) in results_of(folder).items():
        if rows:
            lines += section(name, dense, rows)
    return with_remarks('\n'.join(lines), PAGE)
