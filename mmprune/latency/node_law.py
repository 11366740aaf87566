"""What a node of an exported network takes as a function of two of its sizes, the channels that it reads and writes.

``t = a + b reads + c writes + d reads writes`` with coefficients of at least 0, fitted to the relative error. Nodes of
one kind (operator, kernel, map size, number of inputs) share them but for a factor of each node's own.
"""
import itertools
from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

import numpy as np

from .channel_sum import ChannelSum

#: Coefficients of a law: constant, reads, writes, reads times writes.
TERMS = 4


@dataclass
class NodeLaw:
    """The time of a node.

    Attributes:
        name (str): Of the node in the runtime's profile.
        op (str): Its operator.
        reads, writes (ChannelSum): The two sizes that its time follows: channels of its input and its output; of a
            product of activations what is summed over and the heads, or the heads and what they write. Where only one
            size changes, it is ``writes``.
        coefficients (ndarray[4]): ``a, b, c, d`` in milliseconds.
    """

    name: str
    op: str
    reads: ChannelSum
    writes: ChannelSum
    coefficients: np.ndarray

    def milliseconds(self, counts: Dict[str, int], block: int) -> float:
        """Return the time for ``counts``, unit name -> sets."""
        return float(_features(self.reads.of(counts, block), self.writes.of(counts, block)) @ self.coefficients)


@dataclass
class ObservedNode:
    """A node in every measured network.

    Attributes:
        kind (tuple): Nodes of the same kind share a law.
        alone (bool): The time follows one size only: a depthwise convolution, pooling, an activation.
        milliseconds (ndarray[networks]): Its times.
    """

    name: str
    op: str
    kind: Tuple[object, ...]
    alone: bool
    reads: ChannelSum
    writes: ChannelSum
    milliseconds: np.ndarray


def end_of(name: str, most: int) -> str:
    """Return a node's name if it is no longer than some characters, else its end, which tells layers apart."""
    return name if len(name) <= most else f'...{name[3 - most:]}'


def layer_name(node: str, most: int) -> str:
    """Return :func:`end_of` a node's name without what onnxruntime writes behind that of the layer."""
    return end_of(node.replace('_output_0_nchwc', ''), most)


def _features(reads: float, writes: float) -> np.ndarray:
    return np.array([1.0, reads, writes, reads * writes])


def fit_laws(nodes: Sequence[ObservedNode], structures: Sequence[Dict[str, int]], block: int,
             used: np.ndarray) -> List[NodeLaw]:
    """Fit the laws of all nodes, and return them in their order.

    Args:
        nodes (list[ObservedNode]): Of the profiles.
        structures (list[dict[str, int]]): Unit name -> sets, of each measured network.
        block (int): Channels of a unit count in multiples of it.
        used (ndarray[networks], bool): Which networks the laws are fitted to.
    """
    kinds: Dict[Tuple[object, ...], List[ObservedNode]] = {}
    for node in nodes:
        kinds.setdefault(node.kind, []).append(node)
    laws: Dict[str, NodeLaw] = {}
    for members in kinds.values():
        features = [np.stack([_features(node.reads.of(counts, block), node.writes.of(counts, block))
                              for counts in structures]) for node in members]
        columns = [0, 2] if all(node.alone for node in members) else [0, 1, 2, 3]
        times = [np.maximum(node.milliseconds, 1e-6) for node in members]  # the clock of a profile counts microseconds
        rows = np.concatenate([one[used] / time[used, None] for one, time in zip(features, times)])
        shared = np.zeros(TERMS)
        shared[columns] = non_negative_least_squares(rows[:, columns], np.ones(len(rows)))
        for node, one, time in zip(members, features, times):
            factor = float(np.median(time[used] / np.maximum(one[used] @ shared, 1e-9)))
            laws[node.name] = NodeLaw(node.name, node.op, node.reads, node.writes, factor * shared)
    return [laws[node.name] for node in nodes]


def non_negative_least_squares(matrix: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the ``x >= 0`` with the least ``|matrix x - wanted|``, of a few columns: every set of them is tried.

    Args:
        matrix (ndarray[rows, columns]): At most five columns.
        wanted (ndarray[rows]): What the product is to be.
    """
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-300)
    best, least = np.zeros(matrix.shape[1]), float((wanted ** 2).sum())
    for count in range(1, matrix.shape[1] + 1):
        for columns in map(list, itertools.combinations(range(matrix.shape[1]), count)):
            found = np.linalg.lstsq(matrix[:, columns] / scale[columns], wanted, rcond=None)[0]
            error = float(((matrix[:, columns] / scale[columns] @ found - wanted) ** 2).sum())
            if (found >= 0).all() and error < least * (1 - 1e-12):
                best, least = np.zeros(matrix.shape[1]), error
                best[columns] = found / scale[columns]
    return best
