"""Channels that live and die together, as everything beyond the trace sees them."""
from dataclasses import dataclass, field
from typing import Collection, Dict, List, Optional

import numpy as np

from .trace import Axis, LayerCall

#: Roles of axes, in the order in which they name a unit.
ROLES = ('out', 'depthwise', 'in', 'affine', 'attribute')


@dataclass(frozen=True)
class Member:
    """The part of a unit that lies on one axis of one tensor.

    Attributes:
        axis (Axis): The axis of a parameter or buffer.
        index (ndarray[sets, k]): The indices of each set on that axis.
    """

    axis: Axis
    index: np.ndarray


@dataclass
class CoupledChannels:
    """Channels that live and die together, over all tensors of the model.

    Attributes:
        name (str): ``{first producer}_({start}, {end})_{channels}``.
        members (list[Member]): In the order of the forward pass.
        reason (str or None): Why the channels must stay; None if they may be pruned.
        attributes (list[Member]): Numbers of channels that modules keep and that follow.
        named_by (Member or None): The first member, where the layer that it lies on has been removed since.
    """

    name: str
    members: List[Member]
    reason: Optional[str] = None
    attributes: List[Member] = field(default_factory=list)
    named_by: Optional[Member] = None

    @property
    def num_sets(self) -> int:
        """Number of sets of tied channels."""
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
        """Leave out the members on tensors that the model has no longer."""
        self.named_by = self.first
        self.members = [member for member in self.members if member.axis.tensor not in tensors]
        modules = {tensor.rpartition('.')[0] for tensor in tensors}
        self.attributes = [member for member in self.attributes if member.axis.layer not in modules]


@dataclass
class ChannelGraph:
    """All channels of a model, in units that may be pruned and groups that may not.

    Attributes:
        units (list[CoupledChannels]): May be pruned, in the order of the forward pass.
        frozen (list[CoupledChannels]): Must stay, each with its reason.
        calls (list[LayerCall]): Layer calls with their traced shapes.
        axes (list[Axis]): All axes indexed by channels, frozen ones included.
        kinds (dict[str, str]): Layer name -> ``conv``, ``linear`` or a kind of the user's.
    """

    units: List[CoupledChannels]
    frozen: List[CoupledChannels]
    calls: List[LayerCall]
    axes: List[Axis]
    kinds: Dict[str, str] = field(default_factory=dict)
