"""From the ties of a trace to components: ids that can only be removed together, and those that must stay.

Some tensors must also stay rectangular. A channel shuffle views C channels as groups of C/g: the same positions of
every group have to be removed. A chunk needs parts of one size, a stack rows of one length. Which axis of such a grid
may become shorter is decided here, when all ties are known.
"""
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from .trace import Broadcast, Grid, Trace

Pair = Tuple[np.ndarray, np.ndarray]


class Reasons:
    """Why components must stay; the first reason given to a component wins.

    Attributes:
        number (ndarray[num_ids]): The number of each component's reason, from 1; 0 where it may be removed.
    """

    def __init__(self, count: int) -> None:
        self.number: np.ndarray = np.zeros(count, dtype=np.int64)
        self._numbers: Dict[str, int] = {}

    def add(self, components: np.ndarray, reason: str) -> None:
        """Give a reason to the components that have none."""
        fresh = components[self.number[components] == 0]
        self.number[fresh] = self._numbers.setdefault(reason, len(self._numbers) + 1)

    def of(self, component: int) -> Optional[str]:
        """Return the reason of a component, or None."""
        number = self.number[component]
        return list(self._numbers)[number - 1] if number else None


class Components:
    """Which ids can only be removed together: a forest whose roots are the smallest ids of their components.

    Attributes:
        parent (ndarray[num_ids]): A smaller id of the same component; of a root itself.
    """

    def __init__(self, count: int) -> None:
        self.parent = np.arange(count)

    def of(self, ids: np.ndarray) -> np.ndarray:
        """Return the root of each id."""
        root = self.parent[ids]
        while not np.array_equal(upper := self.parent[root], root):
            root = upper
        return root  # type: ignore[no-any-return]

    def merge(self, left: np.ndarray, right: np.ndarray) -> bool:
        """Tie ids in pairs; tell whether anything changes."""
        left, right = self.of(left), self.of(right)
        apart = left != right
        if not apart.any():
            return False
        roots, pairs = np.unique(np.stack([left[apart], right[apart]]), return_inverse=True)
        self.parent[roots] = roots[connected_components(len(roots), *pairs.reshape(2, -1))]
        return True


def couple(traced: Trace) -> Tuple[np.ndarray, Reasons]:
    """Return the component of every id ``ndarray[num_ids]``, and which components must stay."""
    components = Components(traced.num_ids)
    components.merge(*traced.ties)
    changes = True
    while changes:
        changes = False
        for grid in traced.grids:
            changes |= _merge(components, _ties_of_grid(grid, components))
            changes |= _merge(components, _ties_of_size(grid, components))
        for broadcast in traced.broadcasts:
            changes |= _merge(components, _ties_of_broadcast(broadcast, components))
    return components.of(np.arange(traced.num_ids)), _reasons(traced, components)


def connected_components(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the smallest id of each id's component, ``ndarray[count]``; edges are ``left[i] - right[i]``."""
    parent = np.arange(count)
    while True:
        low, high = np.minimum(parent[left], parent[right]), np.maximum(parent[left], parent[right])
        apart = low != high
        if not apart.any():
            return parent
        left, right = left[apart], right[apart]
        np.minimum.at(parent, high[apart], low[apart])
        while not np.array_equal(grand := parent[parent], parent):
            parent = grand


def _merge(components: Components, pair: Optional[Pair]) -> bool:
    """Tie the ids of two arrays where both have ids; tell whether anything changes."""
    if pair is None:
        return False
    met = (pair[0] >= 0) & (pair[1] >= 0)
    return components.merge(pair[0][met], pair[1][met])


def _components(ids: np.ndarray, components: Components) -> np.ndarray:
    return np.where(ids >= 0, components.of(np.maximum(ids, 0)), -1)


def _first(array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """Return the array at position 0 of the axes, which keep size 1."""
    return array[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(array.ndim))]


def _varying(components: np.ndarray) -> List[int]:
    """Return the axes along which the components are not constant."""
    return [axis for axis in range(components.ndim)
            if components.shape[axis] > 1 and bool((components != _first(components, [axis])).any())]


def _axes(grid: Grid, components: Components) -> Tuple[Optional[int], List[int]]:
    """Return the free axis with the most different slices, which may become shorter, and the other varying axes."""
    present = _components(grid.ids, components)
    varying = _varying(present)
    free = [axis for axis in varying if axis not in grid.fixed]
    shrinks = max(free, key=lambda axis: _different_slices(present, axis)) if free else None
    return shrinks, [axis for axis in varying if axis != shrinks]


def _ties_of_grid(grid: Grid, components: Components) -> Optional[Pair]:
    """Tie a grid along every axis but that which may become shorter."""
    shrinks, others = _axes(grid, components)
    if shrinks is None or not others:
        return None
    return grid.ids, np.broadcast_to(_first(grid.ids, others), grid.ids.shape)


def _ties_of_size(grid: Grid, components: Components) -> Optional[Pair]:
    """Tie the indices of the axis that may become shorter to those of the attribute that is its size."""
    if grid.written is None or _axes(grid, components)[0] != grid.written[0]:
        return None
    axis, own = grid.written
    return np.moveaxis(grid.ids, axis, -1).reshape(-1, len(own))[0], own


def _different_slices(components: np.ndarray, axis: int) -> int:
    """Count the different slices across an axis, by a hash of each."""
    rows: np.ndarray = np.moveaxis(components, axis, 0).reshape(components.shape[axis], -1).astype(np.uint64)
    weights = np.random.RandomState(0).randint(1, 2**62, size=rows.shape[1]).astype(np.uint64)
    return len(np.unique((rows * weights).sum(axis=1, dtype=np.uint64)))


def _repeated(broadcast: Broadcast) -> List[int]:
    return [axis for axis, (wide, narrow) in enumerate(zip(broadcast.wide.shape, broadcast.narrow.shape))
            if narrow < wide]


def _ties_of_broadcast(broadcast: Broadcast, components: Components) -> Optional[Pair]:
    """Tie the operands where ``wide`` is a single component along the axes over which ``narrow`` is repeated."""
    axes = _repeated(broadcast)
    if set(axes) & set(_varying(_components(broadcast.wide, components))):
        return None
    return _first(broadcast.wide, axes), broadcast.narrow


def _reasons(traced: Trace, components: Components) -> Reasons:
    """Return which components must stay: those frozen in the trace, by a fixed axis or by a broadcast."""
    reasons = Reasons(len(components.parent))

    def freeze(ids: np.ndarray, reason: str) -> None:
        reasons.add(components.of(ids[ids >= 0]), reason)

    for ids, reason in traced.frozen:
        freeze(ids, reason)
    for grid in traced.grids:
        shrinks, others = _axes(grid, components)
        if shrinks is None and others:
            freeze(grid.ids, grid.reason)
        elif others:  # an index with a value that is no channel must stay
            outside = (grid.ids < 0).any(axis=tuple(others), keepdims=True)
            freeze(np.where(outside, grid.ids, -1), grid.reason)
        if grid.written is not None and shrinks == grid.written[0]:
            axis, own = grid.written
            freeze(own[(grid.ids < 0).any(axis=tuple(a for a in range(grid.ids.ndim) if a != axis))], grid.reason)
    for broadcast in traced.broadcasts:
        if set(_repeated(broadcast)) & set(_varying(_components(broadcast.wide, components))):
            freeze(broadcast.narrow, broadcast.reason)
    return reasons
