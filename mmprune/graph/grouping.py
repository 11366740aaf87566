"""From a trace to units: which channels are tied, and which must stay.

Ids that are tied form a *set*: channels that can only be removed together. Sets with equally many indices on the same
axes form a *unit*. Both steps work on whole arrays.
"""
from typing import Any, Callable, Dict, List, Mapping, Optional, Set, Tuple

import numpy as np
from torch import nn

from .capture import trace_model
from .channels import ROLES, ChannelGraph, CoupledChannels, Member
from .coupling import Reasons, couple
from .factors import Factors
from .trace import Axis, IdleLayer, Trace

NO_CONSUMER = 'no conv or linear layer reads it'
NO_PRODUCER = 'no conv or linear layer produces it'
TRAINING_ONLY = 'it is produced in training only, so that pruning it saves nothing at inference'
ONLY_CHANNEL = 'it is the only channel of its layer'
ALL_OR_NONE = 'its channels are all tied to one another, so that none can go alone'


def build_graph(model: nn.Module, forward: Callable[[nn.Module], Any]) -> ChannelGraph:
    """Trace a model once and return its channel units.

    Args:
        model (nn.Module): The dense model.
        forward (Callable): Called with the model; runs it on a demo input and returns its outputs.

    Returns:
        ChannelGraph: Every channel of every called conv and linear layer, in a unit or frozen with a reason.
    """
    return group_channels(trace_model(model, forward))


def group_channels(traced: Trace) -> ChannelGraph:
    """Group the ids of a trace into sets and units."""
    root, reasons = couple(traced)
    axes = list(traced.axes)
    for name, ids in traced.loose.items():
        axis, reason = _cut_axis(name, root[ids], axes)
        if axis is not None:
            axes.append(Axis(name, axis, 'affine', 1, np.take(np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1),
                                                              0, axis=1)))
        elif reason:
            reasons.add(root[ids].reshape(-1), reason)
            for used in traced.axes:
                if used.tensor == name:
                    reasons.add(root[used.ids], reason)
    for call in traced.calls:
        call.repeated = None if call.channels is None else _axis_of(call.channels, axes, root)
    for product in traced.products:
        product.axis = _axis_of(product.channels, axes, root)
    factors = Factors(traced.head_layouts, root, reasons)
    for call in [call for call in traced.calls if call.rows is not None]:
        rows = next(axis.ids for axis in axes if (axis.tensor, axis.dim) == (call.weight, 0))
        call.as_many = factors.as_many(rows[slice(*call.rows)], axes)  # type: ignore[misc]
    axes = factors.split(axes)
    components = [np.where(axis.ids >= 0, root[axis.ids], -1) for axis in axes]
    kinds = {axis.layer: 'product' for axis in axes if axis.role == 'in'}
    kinds.update({call.layer: call.kind for call in traced.calls if call.weight})
    kinds.update({layer.layer: layer.kind for layer in traced.idle})
    inference = {call.layer for call in traced.calls if not call.training_only}
    units: List[CoupledChannels] = []
    frozen: List[CoupledChannels] = []
    for group in _signature_groups(axes, components, reasons, factors.part):
        reason = group.reason = _reason_to_stay(group, inference)
        if group.producers or group.consumers:
            (units if reason is None else frozen).append(group)
    frozen += [group for layer in traced.idle for group in _idle_channels(layer)]
    _name(units)
    _name(frozen)
    return ChannelGraph(units, frozen, traced.calls, axes, kinds, traced.products)


def _axis_of(channels: np.ndarray, axes: List[Axis], root: np.ndarray) -> Optional[Tuple[str, int]]:
    """Return the tensor and the axis that hold given channels in their order, or None."""
    return next(((axis.tensor, axis.dim) for axis in axes if axis.role != 'attribute'
                 and np.array_equal(root[axis.ids], root[channels])), None)


def _reason_to_stay(group: CoupledChannels, inference: Set[str]) -> Optional[str]:
    """Return why a group must stay, or None; ``inference`` are the layers that run at inference."""
    checks = (
        (group.reason is not None, group.reason),
        (not group.consumers, NO_CONSUMER),
        (not group.producers, NO_PRODUCER),
        (inference.isdisjoint(member.axis.layer for member in group.producers), TRAINING_ONLY),
        (group.num_sets == 1, ALL_OR_NONE if group.width > 1 else ONLY_CHANNEL))
    return next((reason for applies, reason in checks if applies), None)


def _idle_channels(layer: IdleLayer) -> List[CoupledChannels]:
    """Return the rows and the columns of an idle layer as frozen groups."""
    axes = [Axis(layer.weight, dim, role, 1, np.arange(layer.shape[dim])) for dim, role in enumerate(('out', 'in'))]
    return [CoupledChannels('', [Member(axis, axis.ids[:, None])], layer.reason) for axis in axes]


def _cut_axis(name: str, sets: np.ndarray, axes: List[Axis]) -> Tuple[Optional[int], Optional[str]]:
    """Return the axis along which an element-wise parameter has channels, and the reason to freeze them; or None."""
    if any(axis.tensor == name for axis in axes):
        return None, f'parameter {name!r} is used both as a layer weight and element by element'
    for axis in range(sets.ndim):
        line = np.moveaxis(sets, axis, 0).reshape(sets.shape[axis], -1)
        if sets.shape[axis] > 1 and (line == line[:, :1]).all():
            return axis, None
    if sets.size == 1:
        return 0 if sets.ndim else None, None
    return None, f'parameter {name!r} ties it along more than one axis'


def _signatures(components: List[np.ndarray], reasons: Reasons) -> np.ndarray:
    """Return a number for each component, equal for equally many indices on the same axes and the same reason."""
    signature = reasons.number.copy()
    fresh = int(signature.max(initial=0)) + 1
    for on_axis in components:  # every axis splits the components that it touches by how often it does
        present, times = np.unique(on_axis[on_axis >= 0], return_counts=True)
        pairs = np.stack([signature[present], times])
        inverse = np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1)
        signature[present] = fresh + inverse
        fresh += int(inverse.max()) + 1
    return signature


def _signature_groups(axes: List[Axis], components: List[np.ndarray], reasons: Reasons,
                      parts: Mapping[int, str]) -> List[CoupledChannels]:
    """Group components, which are sets, by signature; a group becomes a unit or is frozen."""
    signature = _signatures(components, reasons)
    groups: Dict[int, CoupledChannels] = {}
    rank: np.ndarray = np.zeros(len(signature), dtype=np.int64)
    for position in sorted(range(len(axes)), key=lambda number: (ROLES.index(axes[number].role), number)):
        on_axis = components[position]
        marks = np.where(on_axis >= 0, signature[on_axis], -1)
        order = np.argsort(marks, kind='stable')[(marks < 0).sum():]  # the indices of each mark side by side, ascending
        if not len(order):
            continue
        for here in np.split(order, np.flatnonzero(np.diff(marks[order])) + 1):
            mark = int(marks[here[0]])
            if mark not in groups:  # the first producer gives each set its rank
                groups[mark] = CoupledChannels('', [], reasons.of(int(on_axis[here[0]])),
                                               part=parts.get(int(on_axis[here[0]]), ''))
                present, first = np.unique(on_axis[here], return_index=True)
                rank[present[np.argsort(first)]] = np.arange(len(present))
            ranks = rank[on_axis[here]]
            index = here[np.argsort(ranks, kind='stable')].reshape(int(ranks.max()) + 1, -1)
            groups[mark].members.append(Member(axes[position], index))
    place = {id(axis): number for number, axis in enumerate(axes)}
    for group in groups.values():
        group.members.sort(key=lambda member: place[id(member.axis)])
        group.attributes = [member for member in group.members if member.axis.role == 'attribute']
        group.members = [member for member in group.members if member.axis.role != 'attribute']
    groups = {mark: group for mark, group in groups.items() if group.members}
    return sorted(groups.values(), key=lambda group: (place[id(group.first.axis)], int(group.first.index.min())))


def _name(groups: List[CoupledChannels]) -> None:
    """Name groups in mmrazor's published format; groups that interleave on a producer share a range, with ``#2``..."""
    by_axis: Dict[Tuple[str, int], List[CoupledChannels]] = {}
    for group in groups:  # sorted by their first index
        by_axis.setdefault((group.first.axis.tensor, group.first.axis.dim), []).append(group)
    seen: Dict[str, int] = {}  # a module may have several weights of one width
    for neighbours in by_axis.values():
        ranges: List[Tuple[int, int, List[CoupledChannels]]] = []
        for group in neighbours:
            start, end = int(group.first.index.min()), int(group.first.index.max()) + 1
            together = [group]
            if ranges and start < ranges[-1][1]:
                before = ranges.pop()
                start, end, together = before[0], max(before[1], end), [*before[2], group]
            ranges.append((start, end, together))
        for start, end, together in ranges:
            for group in together:
                name = f'{group.first.axis.layer}_({start}, {end})_{group.width}{group.part and "#" + group.part}'
                seen[name] = seen.get(name, 0) + 1
                group.name = name if seen[name] == 1 else f'{name}#{seen[name]}'
