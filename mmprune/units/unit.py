"""A unit: its sets of tied channels, and which of them are kept."""
import math
from typing import Dict, Optional, Sequence, Union

import numpy as np

from ..arguments import UserError
from ..graph.channels import CoupledChannels
from ..registry import MODELS
from .ranks import adopt
from .structure import StructureError


@MODELS.register_module()
class ChannelUnit:
    """A list of sets of tied channels that a prune run scores and cuts.

    Args:
        channels (CoupledChannels): The channels, over all tensors of the model.
        mutate_linear (bool): Prune channels that a linear layer reads or produces. Defaults to False, as in mmrazor.

    Attributes:
        kept (ndarray[sets], bool): Which sets are kept.
        padding (int): Sets of zeros beyond the original ones, for a divisor.
        min_sets (int): Least number of sets that a prune run keeps.
    """

    def __init__(self, channels: CoupledChannels, mutate_linear: bool = False) -> None:
        if not isinstance(mutate_linear, bool):
            raise UserError(f'mutate_linear is {mutate_linear!r}; it must be True or False')
        self.channels = channels
        self.mutate_linear = mutate_linear
        self.kept: np.ndarray = np.ones(channels.num_sets, dtype=bool)
        self.padding = 0
        self.min_sets = 1

    @property
    def name(self) -> str:
        """Name in the format of fix_subnet.json."""
        return self.channels.name

    @property
    def width(self) -> int:
        """Channels of the first producer before pruning."""
        return self.channels.width

    @property
    def multiplicity(self) -> int:
        """Channels of the first producer in one set: more than 1 where a grouped convolution ties them."""
        return self.width // self.channels.num_sets

    def sets_in(self, block: int) -> int:
        """Return how many sets make whole blocks of channels of the first producer."""
        return block // math.gcd(block, self.multiplicity)

    @property
    def num_sets(self) -> int:
        """Present sets, padding included."""
        return int(self.kept.sum()) + self.padding

    @property
    def current_width(self) -> int:
        """Present channels of the first producer."""
        return self.num_sets * self.multiplicity

    @property
    def kept_channels(self) -> np.ndarray:
        """0/1 vector ``ndarray[width]`` over the original channels of the first producer."""
        vector: np.ndarray = np.zeros(self.width, dtype=np.uint8)
        vector[self._channels_of_sets[self.kept].reshape(-1)] = 1
        return vector

    def mask_of(self, vector: np.ndarray) -> np.ndarray:
        """Return which sets ``ndarray[sets]`` a 0/1 vector over the first producer's channels keeps.

        Dimensions of heads get the ranks that the vector asks for.

        Raises:
            StructureError: The heads keep different numbers of dimensions.
            ValueError: The vector has another length than the unit.
        """
        if vector.shape != (self.width,):
            raise ValueError(f'kept vector of {self.name!r} has {vector.size} entries, the unit {self.width}')
        adopt(self, vector)
        return vector.astype(bool)[self._channels_of_sets].all(axis=1)

    def mask_of_numbers(self, channels: Union[int, Sequence[int]]) -> np.ndarray:
        """Return which sets ``ndarray[sets]`` a structure keeps: how many channels, from the first on, or which.

        Raises:
            StructureError: A channel does not exist, or tied channels do not stay together.
        """
        if isinstance(channels, int):
            return np.asarray(np.arange(len(self.kept)) < channels // self.multiplicity)
        vector: np.ndarray = np.zeros(self.width, dtype=np.uint8)
        if any(isinstance(c, bool) or not isinstance(c, int) or not 0 <= c < self.width for c in channels):
            raise StructureError(f'the structure names channels of {self.name!r} that it does not have; they are '
                                 f'numbers from 0 to {self.width - 1}')
        if len({*channels}) < len(channels):
            raise StructureError(f'the structure names a channel of {self.name!r} twice')
        vector[list(channels)] = 1
        mask = self.mask_of(vector)
        if int(mask.sum()) * self.multiplicity != vector.sum():
            raise StructureError(f'channels of {self.name!r} are tied in sets of {self.multiplicity}, of which the '
                                 'structure keeps some and drops others')
        return mask

    @property
    def _channels_of_sets(self) -> np.ndarray:
        """Channels ``ndarray[sets, k]``, counted from the unit's first channel."""
        index = self.channels.first.index
        return np.argsort(np.argsort(index.reshape(-1))).reshape(index.shape)

    def reason_to_freeze(self, kinds: Dict[str, str]) -> Optional[str]:
        """Return why this type of unit does not prune these channels, or None.

        Args:
            kinds (dict[str, str]): Layer name -> ``conv`` or ``linear``.
        """
        if self.mutate_linear:
            return None
        layers = [member.axis.layer for member in [*self.channels.producers, *self.channels.consumers]]
        linear = next((layer for layer in layers if kinds[layer] == 'linear'), None)
        return None if linear is None else f'linear layer {linear!r} is coupled to it (mutate_linear=True prunes it)'


def by_name(units: Sequence[ChannelUnit]) -> Dict[str, ChannelUnit]:
    """Return name -> unit."""
    return {unit.name: unit for unit in units}
