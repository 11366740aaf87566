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
        role (str): ``out`` (rows of a layer), ``in`` (columns), ``depthwise`` (both) or ``affine`` (follows).
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
    """

    weight: str
    kind: str
    positions: int
    out_positions: int
    out_channels: int
    by_module: bool = True
    computed_weight: Optional[Tuple[int, ...]] = None

    @property
    def layer(self) -> str:
        """Name of the module that owns the weight."""
        return self.weight.rpartition('.')[0]


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
    """

    num_ids: int
    axes: List[Axis]
    loose: Dict[str, np.ndarray]
    ties: Tuple[np.ndarray, np.ndarray]
    frozen: List[Tuple[np.ndarray, str]]
    calls: List[LayerCall] = field(default_factory=list)
