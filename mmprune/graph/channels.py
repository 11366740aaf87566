"""Sets of tied channels, grouped into units: the result of a trace."""
from dataclasses import dataclass, field
from typing import Collection, Dict, List, Optional

import numpy as np

from .factors import ProductCall
from .trace import Axis, LayerCall

#: Roles of axes, in the order in which they name a unit.
ROLES = ('out', 'depthwise', 'in', 'affine', 'attribute')


@dataclass(frozen=True)
class Member:
    """The channels of a unit on one axis of one tensor."""

    axis: Axis  #: the axis of a parameter or buffer
    index: np.ndarray  #: ``ndarray[sets, k]``: the indices of each set on that axis


@dataclass
class CoupledChannels:
    """A list of sets of tied channels, over all tensors of the model."""

    name: str  #: ``{first producer}_({start}, {end})_{channels}``
    members: List[Member]  #: in the order of the forward pass
    reason: Optional[str] = None  #: why the channels must stay; None if they may be pruned
    attributes: List[Member] = field(default_factory=list)  #: module attributes that equal the number of channels
    part: str = ''  #: ``heads``, ``qk`` or ``v``, where the channels lie as heads times dimensions
    named_by: Optional[Member] = None  #: the member that :attr:`first` was before tensors were removed

    @property
    def num_sets(self) -> int:
        """Number of sets."""
        return len(self.members[0].index)

    @property
    def producers(self) -> List[Member]:
        """Members whose output channels belong to the unit, depthwise convolutions included."""
        return [member for member in self.members if member.axis.role in ('out', 'depthwise')]

    @property
    def consumers(self) -> List[Member]:
        """Members whose input channels belong to the unit, depthwise convolutions included."""
        return [member for member in self.members if member.axis.role in ('in', 'depthwise')]

    @property
    def width(self) -> int:
        """Channels of the first producer (or of the only consumer)."""
        return int(self.first.index.size)

    @property
    def first(self) -> Member:
        """The member that names the unit and orders its sets: its first producer, else its first consumer."""
        return self.named_by or min(self.members, key=lambda member: ROLES.index(member.axis.role))

    def forget(self, tensors: Collection[str]) -> None:
        """Drop the members on tensors that were removed from the model."""
        self.named_by = self.first
        self.members = [member for member in self.members if member.axis.tensor not in tensors]
        modules = {tensor.rpartition('.')[0] for tensor in tensors}
        self.attributes = [member for member in self.attributes if member.axis.layer not in modules]


@dataclass
class ChannelGraph:
    """All channels of a model, in units that may be pruned and groups that may not."""

    units: List[CoupledChannels]  #: may be pruned, in the order of the forward pass
    frozen: List[CoupledChannels]  #: must stay, each with its reason
    calls: List[LayerCall]  #: layer calls with their traced shapes
    axes: List[Axis]  #: all axes indexed by channels, frozen channels included
    #: layer name -> ``conv``, ``linear`` or a kind that a user's layer rule records
    kinds: Dict[str, str] = field(default_factory=dict)
    products: List[ProductCall] = field(default_factory=list)  #: products of two activations
