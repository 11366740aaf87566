"""What one forward pass revealed about the channels of a model."""
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

import numpy as np


@dataclass
class Axis:
    """One axis of a parameter or buffer that is indexed by channels.

    Attributes:
        tensor (str): Qualified name of the parameter or buffer.
        dim (int): The axis.
        role (str): ``out`` (rows of a layer), ``in`` (columns), ``depthwise`` (both), ``affine`` (follows) or
            ``attribute`` (no tensor: a number of channels that a module keeps, such as ``out_channels``).
        groups (int): Groups of the convolution, 1 for everything else.
        ids (ndarray[size]): One channel id an index.
    """

    tensor: str
    dim: int
    role: str
    groups: int
    ids: np.ndarray

    @property
    def layer(self) -> str:
        """Name of the module that owns the tensor."""
        return self.tensor.rpartition('.')[0]


@dataclass
class LayerCall:
    """One call of a conv or linear layer, with the shapes of the traced input.

    Attributes:
        weight (str): Qualified name of the weight.
        kind (str): ``conv``, ``linear`` or a kind that a layer rule of the user's records.
        positions (int): How often each weight element is multiplied; MACs are ``positions * weight elements``.
        out_positions (int): Elements of one output channel.
        out_channels (int): Output channels.
        computed_weight (tuple or None): Shape of a weight that is no parameter but computed; ``weight`` is empty then.
        by_module (bool): The owner of the weight ran it; False for a functional call on somebody's weight.
        training_only (bool): It runs in training only (an auxiliary head), so that it costs nothing at inference.
        samples (int): Rows of its batch: images, or regions in the second stage of a detector.
    """

    weight: str
    kind: str
    positions: int
    out_positions: int
    out_channels: int
    by_module: bool = True
    computed_weight: Optional[Tuple[int, ...]] = None
    training_only: bool = False
    samples: int = 1

    @property
    def layer(self) -> str:
        """Name of the module that owns the weight."""
        return self.weight.rpartition('.')[0]


@dataclass(frozen=True)
class IdleLayer:
    """A conv or linear module whose weight was not seen as that of a layer.

    Attributes:
        weight (str): Qualified name of the weight.
        kind (str): ``conv`` or ``linear``.
        shape (tuple[int]): Of the weight.
        reason (str): Why.
    """

    weight: str
    kind: str
    shape: Tuple[int, ...]
    reason: str

    @property
    def layer(self) -> str:
        """Name of the module that owns the weight."""
        return self.weight.rpartition('.')[0]


@dataclass
class Grid:
    """Ids of a tensor that must stay rectangular: pruning may shorten one of its axes, as a whole.

    Attributes:
        ids (ndarray): One id an element; -1 is no channel.
        fixed (tuple[int]): Axes that must keep their size.
        reason (str): Why the ids are frozen where nothing but a fixed axis could be shortened.
    """

    ids: np.ndarray
    fixed: Tuple[int, ...]
    reason: str


@dataclass
class Broadcast:
    """An element-wise operation in which each id of ``narrow`` meets several elements of ``wide``.

    Attributes:
        wide (ndarray): Ids, -1 is no channel.
        narrow (ndarray): Ids, of size 1 along at least one axis of ``wide``.
        reason (str): Why the narrow ids are frozen where they meet channels that may go one by one.
    """

    wide: np.ndarray
    narrow: np.ndarray
    reason: str


@dataclass
class Trace:
    """What one forward pass revealed.

    Attributes:
        num_ids (int): Ids run from 0 to ``num_ids - 1``.
        axes (list[Axis]): In the order of the forward pass.
        loose (dict[str, ndarray]): Ids of every element of parameters used element by element.
        ties (tuple[ndarray, ndarray]): Pairs of ids that belong together.
        frozen (list[tuple[ndarray, str]]): Ids that must stay, with the reason.
        calls (list[LayerCall]): In the order of the forward pass.
        grids (list[Grid]): Tensors that must stay rectangular.
        broadcasts (list[Broadcast]): Operations that repeat one operand over the other.
        idle (list[IdleLayer]): Conv and linear modules that were not seen as layers.
    """

    num_ids: int
    axes: List[Axis]
    loose: Dict[str, np.ndarray]
    ties: Tuple[np.ndarray, np.ndarray]
    frozen: List[Tuple[np.ndarray, str]]
    calls: List[LayerCall] = field(default_factory=list)
    grids: List[Grid] = field(default_factory=list)
    broadcasts: List[Broadcast] = field(default_factory=list)
    idle: List[IdleLayer] = field(default_factory=list)
