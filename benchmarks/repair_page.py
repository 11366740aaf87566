"""The page and the picture of what repair_table.py has measured."""
import statistics
import textwrap
from pathlib import Path
from typing import Any, Dict, List, Sequence

from criteria_table import PEER

from mmprune.report.figure import INK, QUIET, new_figure, save_figure

#: Shares of the multiply-adds that stay.
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5)
#: Multiply-adds of the dense network that a round takes.
STEP = 0.05
#: Key of a result -> how its row is called.
WAYS = {'cut': 'cut', 'norms': 'norms measured again', 'refit': '1 x 1 layers refitted, norms measured again',
        'repaired': 'repaired, one round',
        'rounds': 'repaired, in rounds'}
TITLES = {'once': 'one round', 'rounds': 'in rounds', 'refit': '1 x 1 layers refitted'}
MEASURED = 'MeasuredError'
#: Criterion, key of a result, name and colour of each curve of the picture.
CURVES = (('GroupFisher', 'cut', WAYS['cut'], '#c4ccd4'), ('GroupFisher', 'norms', WAYS['norms'], '#e0a458'),
          ('GroupFisher', 'refit', WAYS['refit'], '#b07aa1'), ('GroupFisher', 'repaired', WAYS['repaired'], '#4c9f70'),
          ('GroupFisher', 'rounds', WAYS['rounds'], '#1d5c8f'),
          (MEASURED, 'rounds', f'{WAYS["rounds"]}, widths by {MEASURED}', '#c0392b'))
Results = Sequence[Dict[str, Any]]


def values(results: Results, criterion: str, way: str, share: float) -> List[float]:
    """Return the accuracies of all halves or seeds."""
    return [row[way] for row in results if row['criterion'] == criterion and row['share'] == share and way in row]


def cell(found: Sequence[float]) -> str:
    """Return the accuracies of two halves, or the mean of more seeds with the least and the most."""
    if len(found) < 3:
        return ' / '.join(f'{value:.1f}' for value in found)
    return f'{statistics.mean(found):.1f} ({min(found):.1f}-{max(found):.1f})'


def table(results: Results) -> List[str]:
    """Return a table of one network and one number of images: a row for each criterion and way."""
    lines = ['| criterion | | ' + ' | '.join(f'{share:g}' for share in SHARES) + ' |',
             '| --- | --- |' + ' ---: |' * len(SHARES)]
    for criterion in dict.fromkeys(row['criterion'] for row in results):
        name = criterion
        for way, title in WAYS.items():
            cells = [cell(values(results, criterion, way, share)) for share in SHARES]
            if any(cells):
                lines.append(f'| {name} | {title} | ' + ' | '.join(cells) + ' |')
                name = ''
    return [*lines, '']


def dense_of(results: Results) -> str:
    """Return the accuracies of the dense network, of each way apart where its weights are not the same."""
    found: Dict[str, Dict[int, float]] = {}
    for row in [row for row in results if 'dense' in row]:
        found.setdefault(row['way'], {})[row['split']] = row['dense']
    texts = {way: ', '.join(f'{dense[split]:.1f}' for split in sorted(dense)) for way, dense in found.items()}
    every: Dict[int, float] = {}
    for dense in found.values():
        every.update(dense)
    if all(every[split] == value for dense in found.values() for split, value in dense.items()):
        return 'Dense: ' + ', '.join(f'{every[split]:.1f}' for split in sorted(every)) + '.'
    return 'Dense, of two trainings: ' + '; '.join(f'{texts[way]} ({TITLES.get(way, way)})' for way in texts) + '.'


def section(results: Results, network: str) -> List[str]:
    """Return the tables of a network."""
    own = [row for row in results if row['network'] == network]
    lines = [f'## {network}', '']
    for images in sorted({row['images'] for row in own}, reverse=True):
        some = [row for row in own if row['images'] == images]
        seconds = {key: statistics.median(row[key] for row in some if key in row) if any(key in row for row in some)
                   else None for key in ('repair_s', 'round_s')}
        lines += [f'### {images} images', '', dense_of(some) + ''.join(
            f' A {name} takes {seconds[key]:.0f} s of CPU in the median.' for key, name in (
                ('repair_s', 'repair'), ('round_s', 'round with its scores')) if seconds[key] is not None)
            + f' {classifier_of(some)}', '', *table(some)]
    return lines


def classifier_of(results: Results) -> str:
    """Return whether the channels that the classifier reads could go, which 500 images cannot make up for."""
    own = [row for row in results if 'dense' not in row and not row['criterion'].startswith(PEER)]
    kept, free = (sorted({row['share'] for row in own if row.get('mutate_linear', True) is value})
                  for value in (False, True))
    if not kept:
        return 'What the classifier reads can go as well.'
    but = f'; at {", ".join(map(str, free))} it could go' if free else ''
    return f'What the classifier reads stays (`mutate_linear=False`){but}.'


def page(results: Results) -> str:
    """Return the page."""
    date, cpu, version, threads = (', '.join(sorted({str(row[name]) for row in results}))
                                   for name in ('date', 'cpu', 'torch', 'threads'))
    networks = list(dict.fromkeys(row['network'] for row in results))
    text = (
        'Top-1 by the share of the multiply-adds that stays; no gradient step. Criteria that need a loss get that of '
        'the outputs on MobileNetV2, which needs no labels, and the cross entropy on the ResNet-18. MobileNetV2 has '
        'real ImageNet weights: one half of the sample of 1,000 images (one a class) is what criteria and repairs '
        'see, the other is the test; first the even images are seen, then the odd ones. Of the narrow ResNet-18 '
        '(CIFAR-10) training images are seen, which a seed draws; the mean of the seeds, with the least and the '
        'most. *Norms measured again*: the statistics of batch norms '
        f'only. *In rounds*: {STEP:.0%} of the multiply-adds in each, scored again. {PEER} chooses and cuts by its '
        'own pruner; its way to bring accuracy back is that of the norms.')
    measured = (f'`MMPRUNE_DATA=... python benchmarks/repair_table.py`, {date}; {cpu}, 2 cores shared with others, '
                f'torch {version}, threads: {threads}.')
    head = ['# Accuracy without training, by criterion', '',
            *textwrap.wrap(measured, 120, break_on_hyphens=False), '',
            *textwrap.wrap(text, 120, break_on_hyphens=False), '',
            '![Accuracy by multiply-adds, with and without repair](images/repair.png)', '']
    return '\n'.join([*head, *(line for network in networks for line in section(results, network))])


def picture(results: Results, path: Path) -> None:
    """Draw accuracy by multiply-adds: cut, norms, repaired and in rounds, a panel for each network."""
    networks = list(dict.fromkeys(row['network'] for row in results))
    figure = new_figure(5.2 * len(networks), 3.6)
    for place, network in enumerate(networks, 1):
        own = [row for row in results if row['network'] == network and row['criterion'] in ('GroupFisher', MEASURED)]
        own = [row for row in own if row['images'] == max(one['images'] for one in own)]
        dense = statistics.mean(row['dense'] for row in own if 'dense' in row)
        axes = figure.add_subplot(1, len(networks), place)
        for criterion, way, title, colour in CURVES:
            points = [(share, statistics.mean(found)) for share in sorted({row['share'] for row in own}, reverse=True)
                      if (found := values(own, criterion, way, share))]
            if points:
                axes.plot(*zip((1.0, dense), *points), marker='o', markersize=4, color=colour, label=title)
        axes.set_xlim(1.02, SHARES[-1] - 0.02)
        axes.set_ylim(0, 100)
        axes.set_title(network, color=INK, fontsize=11)
        axes.set_xlabel('multiply-adds left', color=QUIET)
        axes.set_ylabel('top-1, no training (%)', color=QUIET)
        axes.spines[['top', 'right']].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc='lower left')
    figure.tight_layout()
    save_figure(figure, path)
