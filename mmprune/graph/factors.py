"""Channels that lie as heads times dimensions, as the rows of queries do: two units on the same rows.

A row belongs to its head and to its dimension, and stays where both stay. A head goes as a whole. Of the dimensions
every head may lose others, but all heads keep equally many.
"""
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple

import numpy as np

if TYPE_CHECKING:
    from .coupling import Reasons
    from .trace import Axis

TWO_LAYOUTS = 'its channels lie as heads and dimensions in two ways that do not agree'
#: What units of heads are called, and those of their dimensions.
HEADS, QUERY_KEY, VALUE = 'heads', 'qk', 'v'
DIMENSIONS = (QUERY_KEY, VALUE)


@dataclass(frozen=True)
class HeadLayout:
    """Channels that lie as heads times dimensions."""

    ids: np.ndarray  #: ``ndarray[heads, dims]``: their ids
    heads: np.ndarray  #: ``ndarray[heads]``: an id for each head
    dims: np.ndarray  #: ``ndarray[dims]``: an id for each dimension
    part: str  #: what the dimensions are: ``qk`` or ``v``


@dataclass
class ProductCall:
    """A product of two activations, which costs as many multiply-adds a channel as there are pairs of tokens."""

    channels: np.ndarray  #: ids of the channels that it sums over or issues
    positions: int  #: multiply-adds a channel
    samples: int = 1  #: rows of the batch
    training_only: bool = False  #: it runs in training only
    axis: Optional[Tuple[str, int]] = None  #: tensor and axis that hold these channels, once they are known


class Factors:
    """Of every component of channels that lies in a head layout: its head, its dimension, and what the latter is.

    Args:
        layouts (list[HeadLayout]): Of a trace.
        root (ndarray[num_ids]): The component of every id.
        reasons (Reasons): Why components must stay; those of rows are passed on to heads and dimensions.
    """

    def __init__(self, layouts: Sequence[HeadLayout], root: np.ndarray, reasons: 'Reasons') -> None:
        self.root = root
        self.head: np.ndarray = np.full(len(root), -1)
        self.dim: np.ndarray = np.full(len(root), -1)
        self.part: Dict[int, str] = {}  #: of a component of heads or dimensions
        for layout in layouts:
            self._add(layout, reasons)

    def _add(self, layout: HeadLayout, reasons: 'Reasons') -> None:
        rows = self.root[layout.ids]
        heads, dims = (np.broadcast_to(self.root[own], rows.shape) for own in (layout.heads[:, None], layout.dims))
        known = self.head[rows] >= 0
        fits = len(np.unique(rows)) == rows.size or not self._folds(rows, heads, dims)
        agrees = fits and all((own[rows][known] == new[known]).all() for own, new in (
            (self.head, heads), (self.dim, dims)))
        stays = next((reason for one in rows.reshape(-1) if (reason := reasons.of(int(one)))), None)
        if not agrees or stays is not None:
            for own in (rows, heads, dims):
                reasons.add(np.unique(own), stays or TWO_LAYOUTS)
        self.head[rows], self.dim[rows] = heads, dims
        self.part.update(dict.fromkeys(np.unique(heads).tolist(), HEADS))
        self.part.update(dict.fromkeys(np.unique(dims).tolist(), layout.part))

    @staticmethod
    def _folds(rows: np.ndarray, heads: np.ndarray, dims: np.ndarray) -> bool:
        """Tell whether one component stands at places of different heads or dimensions."""
        places = np.unique(np.stack([rows.reshape(-1), heads.reshape(-1), dims.reshape(-1)]), axis=1)
        return len(np.unique(places[0])) < places.shape[1]

    def as_many(self, ids: np.ndarray, axes: Sequence['Axis']) -> Optional[Tuple[str, int]]:
        """Return the tensor and the axis with as many indices as some channels, also after a cut; None if none has.

        Args:
            ids (ndarray[C]): The channels.
            axes (list[Axis]): Axes among which one is looked for.
        """
        own = self.root[ids]
        if len(own) and (self.head[own] >= 0).all():
            for axis in axes:
                other = self.root[axis.ids]
                if len(other) == len(own) and all(np.array_equal(of[other], of[own]) for of in (self.head, self.dim)):
                    return axis.tensor, axis.dim
        return None

    def split(self, axes: Sequence['Axis']) -> List['Axis']:
        """Return axes of single components: one of rows that lie in a layout becomes one of heads, one of dimensions.

        An index that does not belong to such an axis has the id -1 there.
        """
        found = []
        for axis in axes:
            own = self.root[axis.ids]
            inside = self.head[own] >= 0
            if not inside.any():
                found.append(axis)
                continue
            heads = np.where(inside, self.head[own], -1)
            # heads are not read where queries are scaled
            scales = axis.role == 'in' and self.part[int(self.dim[own][inside][0])] == QUERY_KEY
            found += [replace(axis, ids=heads, role='affine' if scales else axis.role),
                      replace(axis, ids=np.where(inside, self.dim[own], own), lanes=heads)]
        return found
