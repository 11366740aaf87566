"""The networks of a road, from the dense to the INT8 one: what each costs, how right and how fast it is."""
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from ..points import drop
from . import number as text
from .content import Bar, Bars, Block, Chart, Charts, Code, Paragraph, Section, Series, Table
from .number import number, ratio
from .road import Road

#: File in the times of a record -> what it is called.
FILES = {'dense': 'dense', 'pruned': 'pruned', 'dense_int8': 'dense, INT8', 'pruned_int8': 'pruned, INT8'}
#: What the pruned network is, by how it was pruned.
PRUNED = {'one-shot': 'cut and repaired, not trained', 'group-fisher': 'cut while it was trained'}
DEPLOYED, INT8 = 'deployed', 'deployed, INT8'
#: Stages that time files.
TIMED = ('deploy', 'int8')


@dataclass(frozen=True)
class Network:
    """A network: what was not measured is None.

    Attributes:
        name (str): What it is called.
        about (str): What was done last.
        metric (float): By which networks are compared.
        macs, params (float): Its costs.
        ms (float): Median time of its file.
        dense_ms (float): That of the dense file, measured in turns with it.
    """

    name: str
    about: str
    metric: Optional[float]
    macs: Optional[float] = None
    params: Optional[float] = None
    ms: Optional[float] = None
    dense_ms: Optional[float] = None

    @property
    def speedup(self) -> Optional[float]:
        """How many times as fast as the dense one."""
        return ratio(self.dense_ms, self.ms)


def median_of(road: Road, stage: str, file: str) -> Optional[float]:
    """Return the median milliseconds of a file as a stage has measured it."""
    return road.number(stage, 'times', file, 'median')


def networks(road: Road) -> List[Network]:
    """Return the networks of which something is known, in the order of the stages."""
    (macs, params), (macs_left, params_left) = ([road.number('prune', 'cost', kind, name) for name in
                                                 ('macs', 'params')] for kind in ('dense', 'pruned'))
    dense_ms = median_of(road, 'deploy', 'dense')
    dense_int8 = median_of(road, 'int8', 'dense') or dense_ms
    deployed = road.metric('test-deployed')
    found = [
        Network('dense', 'the network that was there', road.metric('dense'), macs, params, dense_ms, dense_ms),
        Network('pruned', PRUNED.get(str(road.plan.options.get('method')), 'right after the cut'),
                road.metric('prune'), macs_left, params_left),
        Network('finetuned', 'trained further', road.metric('test'), macs_left, params_left),
        Network(DEPLOYED, 'exported, in onnxruntime', road.metric('int8', 'float_metrics') if deployed is None
                else deployed, macs_left, params_left, median_of(road, 'deploy', 'pruned'), dense_ms),
        Network('dense, INT8', 'for comparison', None, macs, params, median_of(road, 'int8', 'dense_int8'), dense_int8),
        Network(INT8, 'in 8-bit numbers', road.metric('int8'), macs_left, params_left,
                median_of(road, 'int8', 'pruned_int8'), dense_int8)]
    done = {'dense': 'dense', 'pruned': 'prune', 'finetuned': 'test', DEPLOYED: 'deploy'}
    return [network for network in found
            if network.metric is not None or network.ms is not None or done.get(network.name) in road.records]


def by_name(road: Road) -> Dict[str, Network]:
    """Return the networks by their names."""
    return {network.name: network for network in networks(road)}


def networks_section(road: Road) -> Section:
    """Return the table of the networks, and accuracy over milliseconds."""
    found = networks(road)
    dense = found[0] if found and found[0].name == 'dense' else None
    head = ['network', road.metric_name, 'points', 'time', 'speed', 'multiply-adds', 'parameters', 'what it is']
    rows = [[network.name, text.metric(network.metric), _difference(network, dense), text.milliseconds(network.ms),
             text.times(network.speedup),
             _cost(network.macs, dense.macs if dense else None), _cost(network.params, dense.params if dense else None),
             network.about] for network in found]
    blocks: List[Block] = [Table(head, rows, left=(0, 7))] if found else [
        Paragraph('No network has been tested or timed yet.', missing=True)]
    blocks += [*_scatter(road, found), *_times(road), *_all_metrics(road)]
    return Section('networks', 'Every network on the way', blocks)


def _difference(network: Network, dense: Optional[Network]) -> str:
    if network is dense or dense is None or network.metric is None or dense.metric is None:
        return text.NONE
    return text.change(network.metric, dense.metric)


def _cost(value: Optional[float], dense: Optional[float]) -> str:
    left = ratio(value, dense)
    return text.count(value) if left in (None, 1.0) else f'{text.count(value)} ({text.share(left)})'


def _scatter(road: Road, found: List[Network]) -> List[Block]:
    """Return accuracy over milliseconds, where two networks have both."""
    both = [network for network in found if network.metric is not None and network.ms is not None]
    if len(both) < 2:
        return []
    series = [Series('dense' if network.name == 'dense' else 'kept', [(network.ms or 0.0, network.metric or 0.0)],
                     [network.name]) for network in both]
    better = 'up' if drop(road.metric_name, 0.0, 1.0) < 0 else 'down'
    title = f'{road.metric_name} over milliseconds ({better} and left is better)'
    return [Charts([Chart('accuracy', title, 'milliseconds', series)])]


def _times(road: Road) -> List[Block]:
    """Return the measured times as bars, with quartiles and threads."""
    blocks: List[Block] = []
    for stage in TIMED:
        times = {file: value for file, value in road.mapping(stage, 'times').items() if isinstance(value, dict)}
        rows = [Bar(FILES.get(file, file), [('dense' if file.startswith('dense') else 'kept', median)], _spread(value))
                for file, value in times.items() for median in [number(value.get('median'))] if median is not None]
        if rows:
            blocks += [Paragraph(f'Milliseconds of the files, measured in turns (stage {stage}):'),
                       Bars(rows, {}, ('file', 'median (quartiles), threads'))]
    return blocks


def _spread(value: Dict[str, Any]) -> str:
    first, third = (number(value.get(name)) for name in ('first_quartile', 'third_quartile'))
    note = text.milliseconds(number(value.get('median')))
    if first is not None and third is not None:
        note += f' ({text.plain_ms(first)} to {text.plain_ms(third)})'
    threads = value.get('threads')
    return note if threads is None else f'{note}, {threads} thread{"" if threads == 1 else "s"}'


#: Column of the table of all metrics -> stage and field.
MEASURED: Tuple[Tuple[str, str, str], ...] = (
    ('dense', 'dense', 'metrics'), ('pruned', 'prune', 'metrics'), ('finetuned', 'test', 'metrics'),
    (DEPLOYED, 'test-deployed', 'metrics'), ('deployed (with INT8)', 'int8', 'float_metrics'),
    (INT8, 'int8', 'metrics'))


def _all_metrics(road: Road) -> List[Block]:
    """Return every metric of every network, where there is more than the one that counts."""
    columns = {name: road.mapping(stage, field) for name, stage, field in MEASURED}
    columns = {name: values for name, values in columns.items() if values}
    names = list(dict.fromkeys(name for values in columns.values() for name in values))
    if len(names) < 2:
        return []
    rows = [[Code(name), *(text.metric(number(values.get(name))) for values in columns.values())] for name in names]
    return [Paragraph('Every metric that was measured:'), Table(['metric', *columns], rows)]
