"""The result of one traced forward pass: axes, ties, frozen ids, layer calls."""
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

import numpy as np

from .factors import HeadLayout, ProductCall


def layer_of(tensor: str) -> str:
    """Return the module that uses a parameter or buffer: its owner, or the layer that the owner parametrizes."""
    owner = tensor.rpartition('.')[0]
    layer, parametrized, _ = owner.partition('.parametrizations.')
    return layer if parametrized or not owner.startswith('parametrizations.') else ''


@dataclass
class Axis:
    """An axis of a parameter or buffer that is indexed by channels."""

    tensor: str  #: qualified name of the parameter or buffer
    dim: int  #: the axis
    #: ``out`` (rows of a layer), ``in`` (columns), ``depthwise`` (both), ``affine`` (a parameter or buffer with a value
    #: a channel) or ``attribute`` (a module attribute that is a number of channels)
    role: str
    groups: int  #: groups of the convolution, 1 for everything else
    ids: np.ndarray  #: ``ndarray[size]``: the channel id of each index
    #: columns of a tensor from which its layer computes a weight that depends on all of them: a standardised one
    standardised: bool = False
    #: of a norm over all channels, for which removed ones count as zeros
    across: bool = False
    #: of dimensions of heads: the head of each index, ``ndarray[size]``, -1 for none
    lanes: Optional[np.ndarray] = None

    @property
    def layer(self) -> str:
        """Name of the module that uses the tensor."""
        return layer_of(self.tensor)


@dataclass
class LayerCall:
    """A call of a conv or linear layer, with the shapes of the traced input."""

    weight: str  #: qualified name of the weight; empty if the weight is computed
    kind: str  #: ``conv``, ``linear`` or a kind that a user's layer rule records
    positions: int  #: how often each weight element is multiplied; MACs are ``positions * weight elements``
    out_positions: int  #: elements of one output channel
    out_channels: int  #: output channels
    by_module: bool = True  #: the module that owns the weight made the call; False for a functional call elsewhere
    computed_weight: Optional[Tuple[int, ...]] = None  #: shape of a weight that is computed, not a parameter
    training_only: bool = False  #: the call runs in training only (an auxiliary head) and costs nothing at inference
    samples: int = 1  #: rows of the batch: images, or regions in the second stage of a detector
    #: ids of channels whose positions the layer mixes, each by the same weight: it runs once for each of them
    channels: Optional[np.ndarray] = None
    repeated: Optional[Tuple[str, int]] = None  #: tensor and axis that hold these channels, once they are known
    #: the first row of the weight that it uses and the one behind the last; None for all
    rows: Optional[Tuple[int, int]] = None
    as_many: Optional[Tuple[str, int]] = None  #: tensor and axis with as many indices as these rows, also after a cut

    @property
    def layer(self) -> str:
        """Name of the module that uses the weight."""
        return layer_of(self.weight)


@dataclass(frozen=True)
class IdleLayer:
    """A conv or linear module whose weight was not seen as that of a layer."""

    weight: str  #: qualified name of the weight
    kind: str  #: ``conv`` or ``linear``
    shape: Tuple[int, ...]  #: shape of the weight
    reason: str  #: why it was not seen

    @property
    def layer(self) -> str:
        """Name of the module that uses the weight."""
        return layer_of(self.weight)


@dataclass
class Grid:
    """Ids of a tensor that must stay rectangular: pruning may shorten a single axis, the others stay whole."""

    ids: np.ndarray  #: the channel id of each element; -1 is no channel
    fixed: Tuple[int, ...]  #: axes that must keep their size
    reason: str  #: why the ids are frozen where only a fixed axis could become shorter
    #: an axis whose size is written down in an attribute, and the id there of each of its indices, ``ndarray[size]``
    written: Optional[Tuple[int, np.ndarray]] = None


@dataclass
class Broadcast:
    """An element-wise operation that repeats ``narrow`` over ``wide``."""

    wide: np.ndarray  #: ids, -1 is no channel
    narrow: np.ndarray  #: ids, of size 1 along at least one axis of ``wide``
    reason: str  #: why the narrow ids are frozen where they meet channels that may be removed independently


@dataclass
class Trace:
    """The result of a traced forward pass."""

    num_ids: int  #: ids run from 0 to ``num_ids - 1``
    axes: List[Axis]  #: in the order of the forward pass
    loose: Dict[str, np.ndarray]  #: name -> id of every element, of parameters used element by element
    ties: Tuple[np.ndarray, np.ndarray]  #: pairs of ids that can only be removed together
    frozen: List[Tuple[np.ndarray, str]]  #: ids that must stay, with the reason
    calls: List[LayerCall] = field(default_factory=list)  #: in the order of the forward pass
    grids: List[Grid] = field(default_factory=list)  #: tensors that must stay rectangular
    broadcasts: List[Broadcast] = field(default_factory=list)  #: operations that repeat one operand over the other
    idle: List[IdleLayer] = field(default_factory=list)  #: conv and linear modules that were not seen as layers
    head_layouts: List[HeadLayout] = field(default_factory=list)  #: channels that lie as heads times dimensions
    products: List[ProductCall] = field(default_factory=list)  #: products of two activations
