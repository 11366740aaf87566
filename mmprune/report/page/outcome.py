"""What was asked, and what came of it: the numbers that are seen first, and the same in plain words."""
from typing import Any, List, Mapping, Optional, Tuple

from ..points import drop
from . import number as text
from .content import Block, Code, Paragraph, Points, Section, Strong, Table, Text, Tile, Tiles
from .networks import DEPLOYED, INT8, Network, by_name, median_of
from .number import number, ratio
from .road import WHAT, Road

#: What a target is given in -> in words.
COSTS = {'flops': 'multiply-adds', 'params': 'parameters', 'acts': 'activations', 'latency': 'time'}
MILLISECONDS = 'latency_ms'
#: From so many "epochs" on a training is counted in iterations.
ITERATIONS = 1000
#: How far above its target a share may end: half of the last digit that is shown; for times what a run allows itself.
ROUNDING, NEAR = 0.0005, 0.02


def lead(road: Road) -> List[Block]:
    """Return what stands above all sections: what is missing, one sentence, the first numbers."""
    blocks: List[Block] = []
    if road.missing:
        names = ', '.join(f'{stage} ({WHAT[stage]})' for stage in road.missing)
        blocks.append(Paragraph(f'Not all stages are done. There is no record of: {names}. What follows is what there '
                                'is; run the same command again to go on.', missing=True))
    found = by_name(road)
    tiles = [tile for tile in (_speed_tile(found.get(DEPLOYED), 'times as fast'), _metric_tile(road),
                               _cost_tile(road, 'macs', 'multiply-adds left'),
                               _cost_tile(road, 'params', 'parameters left'),
                               _speed_tile(found.get(INT8), 'times as fast in INT8', road)) if tile is not None]
    return [*blocks, *([Tiles(tiles)] if tiles else [])]


def _speed_tile(network: Optional[Network], label: str, road: Optional[Road] = None) -> Optional[Tile]:
    if network is None or network.speedup is None:
        return None
    detail = f'{text.plain_ms(network.dense_ms)} → {text.milliseconds(network.ms)} for an image'
    if road is not None and network.metric is not None:
        detail += f'; {road.metric_name} {text.metric(network.metric)}'
    return Tile(label, f'{network.speedup:.2f}', detail, network.speedup > 1)


def _metric_tile(road: Road) -> Optional[Tile]:
    final, dense = final_network(road), by_name(road).get('dense')
    if final is None or final.metric is None:
        return None
    detail = f'{final.name} network'
    if dense is not None and dense.metric is not None:
        detail = (f'dense {text.metric(dense.metric)}, {final.name} {text.change(final.metric, dense.metric)} points')
    return Tile(road.metric_name, text.metric(final.metric), detail)


def _cost_tile(road: Road, cost: str, label: str) -> Optional[Tile]:
    dense, pruned = (road.number('prune', 'cost', kind, cost) for kind in ('dense', 'pruned'))
    left = ratio(pruned, dense)
    return None if left is None else Tile(label, text.share(left), f'{text.count(dense)} → {text.count(pruned)}')


def final_network(road: Road) -> Optional[Network]:
    """Return the last float network whose metric is known, beside the dense one."""
    known = [network for network in by_name(road).values()
             if network.metric is not None and network.name not in ('dense', INT8)]
    return known[-1] if known else None


def summary_section(road: Road) -> Section:
    """Return in plain words what was done, what was gained and what was lost."""
    blocks: List[Block] = [Paragraph([
        'A trained network, that of ', Code(road.plan.config), ', was made smaller by structural pruning: whole '
        'channels, the maps that a layer hands to the next, were removed where that costs the least accuracy. What '
        'is left is an ordinary, narrower network; nothing is stored or computed for what has gone.'])]
    for title, items in (('What was done', _done(road)), ('What was gained', _gained(road)),
                         ('What was lost', _lost(road))):
        if items:
            blocks += [Paragraph([Strong(title)]), Points(items)]
    return Section('summary', 'In short', blocks)


def _done(road: Road) -> List[Text]:
    items: List[Text] = []
    if 'prune' in road.records:
        left = [f'{text.share(number(value))} of the {COSTS.get(name, name)}'
                for name, value in road.mapping('prune', 'reached').items()]
        items.append(f'Pruned {" and ".join(_asked(road))}' + (
            f'; when it ended, there remained {_listed(left)}.' if left else '.'))
        items += _how(road.plan.options)
    if 'finetune' in road.records:
        length = road.get('finetune', 'epochs')
        unit = 'epochs' if (number(length) or 0) < ITERATIONS else 'iterations'
        items.append(f'Trained further{"" if length is None else f" for {length} {unit}"}, so that the layers that are '
                     'left make up for the others.')
    if 'deploy' in road.records:
        items.append(['Exported to ', Code(road.get('deploy', 'file') or 'an ONNX file'), ' for onnxruntime, and '
                      'compared with PyTorch.'])
    if 'int8' in road.records:
        items.append(['Turned into 8-bit numbers (INT8): ', Code(road.get('int8', 'file') or 'a file'), '.'])
    return items


def _how(options: Mapping[str, Any]) -> List[Text]:
    """Return how channels were chosen, and what made up for them before any finetuning; nothing if no plan says so."""
    if options.get('method') == 'one-shot':
        return [f'Channels were chosen by {options.get("criterion")} scores, and after each cut the layers that read '
                f'them were solved again in closed form on {options.get("images")} training images, or all that there '
                'are: a repair, without training.']
    if options.get('method') == 'group-fisher':
        return ['Channels were chosen by Group Fisher scores while the network was trained.']
    return []


def _listed(parts: List[str]) -> str:
    return parts[0] if len(parts) == 1 else f'{", ".join(parts[:-1])} and {parts[-1]}'


def _asked(road: Road) -> List[str]:
    """Return in words what each target asks for."""
    return [f'to at most {text.milliseconds(value)} for an image' if name == MILLISECONDS
            else f'by {text.share(value)} of the channels of every unit' if name == 'ratio'
            else f'to at most {text.share(value)} of the {COSTS.get(name, name)}'
            for name, value in road.plan.target.items()]


def _gained(road: Road) -> List[Text]:
    found, items = by_name(road), []
    for name, what in ((DEPLOYED, 'The exported network'), (INT8, 'In INT8 it')):
        network = found.get(name)
        if network is None or network.speedup is None:
            continue
        change = f'{network.speedup:.2f} times as fast' if network.speedup >= 1 else \
            f'slower, by a factor of {1 / network.speedup:.2f}'
        items.append(f'{what} takes {text.milliseconds(network.ms)} for an image instead of '
                     f'{text.milliseconds(network.dense_ms)}: {change}.')
    for cost, words in (('macs', 'multiply-adds'), ('params', 'parameters')):
        dense, pruned = (road.number('prune', 'cost', kind, cost) for kind in ('dense', 'pruned'))
        if ratio(pruned, dense) is not None:
            items.append(f'{text.count(pruned)} {words} instead of {text.count(dense)}: '
                         f'{text.share(ratio(pruned, dense))}.')
    return list(items)


def _lost(road: Road) -> List[Text]:
    found, metric = by_name(road), road.metric_name
    dense, final, items = found.get('dense'), final_network(road), []
    if dense is None or dense.metric is None:
        return ['The accuracy of the dense network is not known, so nobody can tell.'] if final else []
    for network in (final, found.get(INT8)):
        if network is not None and network.metric is not None:
            lost = drop(metric, dense.metric, network.metric)
            verdict = 'the same' if not lost else \
                f'{text.change(network.metric, dense.metric)} points, {"worse" if lost > 0 else "better"} than before'
            items.append(f'{metric} of the {network.name} network is {text.metric(network.metric)} instead of '
                         f'{text.metric(dense.metric)}: {verdict}.')
    images = road.number('dense', 'images')
    if items and images:
        one = f': one image more or less is {100 / images:.2f} points' if metric.startswith('accuracy') else ''
        items.append(f'Measured on {images:,.0f} images{one}.')
    if items and 'finetune' in road.records:
        items.append('The finetuned network has been trained for longer than the dense one.')
    pruned, finetuned = (None if name not in found else found[name].metric for name in ('pruned', 'finetuned'))
    if pruned is not None and finetuned is not None and drop(metric, pruned, finetuned) > 0:
        items.append(f'The finetuning made it worse: {metric} was {text.metric(pruned)} before it, and is '
                     f'{text.metric(finetuned)} after it. A lower learning rate or a longer training may keep more, or '
                     'none at all.')
    return list(items)


def target_section(road: Road) -> Section:
    """Return what was asked and what was reached, cost by cost."""
    counted = ['flops' if name == 'macs' else name for name in road.mapping('prune', 'cost', 'dense')]
    costs = list(dict.fromkeys([*road.plan.target, *road.mapping('prune', 'reached'), *counted]))
    rows = [_target_row(road, cost) for cost in costs]
    head = ['cost', 'dense', 'pruned', 'asked', 'left when pruning ended', 'left in the exported file', '']
    return Section('target', 'Asked and reached', [Table(head, rows, left=(0, 6))])


def _target_row(road: Road, cost: str) -> List[Text]:
    asked, reached = number(road.plan.target.get(cost)), road.number('prune', 'reached', cost)
    write = text.milliseconds if cost == MILLISECONDS else text.share
    measured = _measured(road, cost)
    name = {MILLISECONDS: 'time', 'ratio': 'channels of every unit that go'}.get(cost, COSTS.get(cost, cost))
    last, near = (reached, ROUNDING) if measured is None else (measured, NEAR * (asked or 0))
    verdict: Text = '' if asked is None or last is None else \
        [Strong('reached' if last <= asked + near else 'missed')]
    return [name, *_before_and_after(road, cost), write(asked), write(reached), write(measured),
            '' if cost == 'ratio' else verdict]


def _before_and_after(road: Road, cost: str) -> List[str]:
    """Return the cost of the dense and of the pruned network, exactly."""
    if cost in (MILLISECONDS, 'latency'):
        return [text.milliseconds(median_of(road, 'deploy', file)) for file in ('dense', 'pruned')]
    counts = [road.number('prune', 'cost', kind, {'flops': 'macs'}.get(cost, cost)) for kind in ('dense', 'pruned')]
    return [text.NONE if count is None else f'{count:,.0f}' for count in counts]


def _measured(road: Road, cost: str) -> Optional[float]:
    """Return the time that was measured of the exported file, in milliseconds or as a share; None for other costs."""
    pruned, dense = median_of(road, 'deploy', 'pruned'), median_of(road, 'deploy', 'dense')
    return {MILLISECONDS: pruned, 'latency': ratio(pruned, dense)}.get(cost)


def subtitle(road: Road) -> Tuple[str, str]:
    """Return headline and the line below it."""
    name = road.plan.config.replace('\\', '/').rpartition('/')[2].rpartition('.')[0] or road.plan.config
    network = by_name(road).get(DEPLOYED)
    final, dense = final_network(road), by_name(road).get('dense')
    parts = []
    if network is not None and network.speedup is not None:
        parts.append(f'{network.speedup:.2f} times as fast ({text.plain_ms(network.dense_ms)} → '
                     f'{text.milliseconds(network.ms)})')
    if final is not None and final.metric is not None and dense is not None and dense.metric is not None:
        parts.append(f'{road.metric_name} {text.metric(dense.metric)} → {text.metric(final.metric)}')
    quantised = by_name(road).get(INT8)
    if quantised is not None and quantised.speedup is not None:
        parts.append(f'in INT8 {quantised.speedup:.2f} times as fast, {text.metric(quantised.metric)}')
    asked = f'to be pruned {" and ".join(_asked(road))}' if road.plan.target else ''
    return f'{name}, compressed', '; '.join(parts) or asked
