"""The layers that read units, and the set that each of their input channels belongs to."""
from typing import Any, Dict, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.factors import DIMENSIONS, HEADS
from .layer import is_tappable, layer_reading
from .mutator import ChannelMutator
from .ranks import by_element, elements_of
from .unit import ChannelUnit

#: Parts of units of which a layer's input lies in one at most; beside it, it may lie in one of :data:`DIMENSIONS`.
PLAIN = ('', HEADS)


class Consumers:
    """The modules that read the units of a prepared mutator, with a number for every set of every unit.

    Of dimensions of heads every element has a number, lane after lane, since the heads choose theirs.

    Args:
        mutator (ChannelMutator): The mutator.

    Attributes:
        start (dict[str, int]): Unit name -> number of its first set; a unit's sets are numbered in their order.
        count (dict[str, int]): Unit name -> how many numbers it has.
        total (int): Numbers of all units, dropped sets included.
        layers (dict[str, nn.Module]): Name -> module, in the order of the units.
        weights (dict[str, str]): Name -> its weight, which the module around it may own.
    """

    def __init__(self, mutator: ChannelMutator) -> None:
        self.mutator = mutator
        self.count = {unit.name: elements_of(unit) for unit in mutator.units}
        bounds = np.cumsum([0, *self.count.values()])
        self.start: Dict[str, int] = dict(zip(self.count, bounds[:-1].tolist()))
        self.total = int(bounds[-1])
        self.layers: Dict[str, nn.Module] = {}
        self.weights: Dict[str, str] = {}
        for unit in mutator.units:
            for weight in [member.axis.tensor for member in unit.channels.consumers]:
                found = layer_reading(mutator.model, weight)
                if found is not None:
                    self.layers[found[0]], self.weights[found[0]] = found[1], weight

    @property
    def tappable(self) -> Dict[str, nn.Module]:
        """The layers whose input is the module's input: conv and linear modules."""
        return {name: module for name, module in self.layers.items() if is_tappable(module)}

    def reads_dimensions(self, layer: str) -> bool:
        """Tell whether inputs of a layer are dimensions of heads."""
        return any(unit.channels.part in DIMENSIONS and member.axis.role == 'in'
                   for unit, member in self.mutator.surgery.members[self.weights[layer]])

    def owners(self, layer: str, part: Tuple[str, ...] = PLAIN) -> np.ndarray:
        """Return the set number ``ndarray[present input channels]`` of a layer's inputs; ``total`` for no unit.

        Args:
            layer (str): A layer that reads units.
            part (tuple[str]): Of units of these parts; inputs of an attention's output projection have two.
        """
        weight = self.weights[layer]
        module: Any = self.layers[layer]
        members = [(unit, member) for unit, member in self.mutator.surgery.members[weight]
                   if member.axis.role in ('in', 'depthwise')]
        axis = members[0][1].axis
        owner: np.ndarray = np.full(len(axis.ids), self.total)
        for unit, member in members:
            if unit.channels.part in part:
                single = by_element(unit)
                index = member.index if single is unit else next(
                    one.index for one in single.channels.members if one.axis is member.axis)
                owner[index] = self.start[unit.name] + np.arange(len(index))[:, None]
        owner = owner[self.mutator.layout(weight)[axis.dim].astype(int)]
        groups = getattr(module, 'groups', 1)
        if axis.role == 'depthwise':
            owner = owner[::len(owner) // groups]
        elif getattr(module, 'in_channels', len(owner)) != len(owner):
            owner = np.tile(owner, groups)
        return owner

    def mean_by_set(self, layer: str, values: Tensor, unit: ChannelUnit) -> Tensor:
        """Return the means of values of input channels over the present sets of a unit.

        Args:
            layer (str): A layer that reads the unit.
            values (Tensor[input channels]): A value for each input channel.
            unit (ChannelUnit): The unit.

        Returns:
            Tensor[C]: A value for each present set.
        """
        part = unit.channels.part
        sets = torch.from_numpy(self.owners(layer, PLAIN if part in PLAIN else DIMENSIONS) - self.start[unit.name])
        own = (sets >= 0) & (sets < len(unit.kept))
        index, own = sets[own].to(values.device), own.to(values.device)
        sums = values.new_zeros(len(unit.kept)).index_add_(0, index, values[own])
        counts = values.new_zeros(len(unit.kept)).index_add_(0, index, torch.ones_like(values[own]))
        return (sums / counts.clamp_min(1))[torch.from_numpy(unit.kept).to(values.device)]
