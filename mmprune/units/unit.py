"""Channel units: the coupled channels of a model with what is kept of them, and their group Fisher scores."""
from typing import Dict, Optional, Sequence

import numpy as np

from ..graph.channels import CoupledChannels
from ..registry import MODELS


@MODELS.register_module()
class ChannelUnit:
    """Coupled channels that are pruned together.

    Args:
        channels (CoupledChannels): The channels, over all tensors of the model.
        mutate_linear (bool): Prune channels that a linear layer reads or produces. Defaults to False, as in mmrazor.

    Attributes:
        kept (ndarray[classes], bool): Which classes stay.
        padding (int): Classes of zeros beyond the original ones, for a divisor.
        min_classes (int): Classes that a prune run leaves at least.
    """

    def __init__(self, channels: CoupledChannels, mutate_linear: bool = False) -> None:
        self.channels = channels
        self.mutate_linear = mutate_linear
        self.kept: np.ndarray = np.ones(channels.num_classes, dtype=bool)
        self.padding = 0
        self.min_classes = 1

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
        """Channels of the first producer in one class: more than 1 where a grouped convolution ties them."""
        return self.width // self.channels.num_classes

    @property
    def num_classes(self) -> int:
        """Classes at present, padding included."""
        return int(self.kept.sum()) + self.padding

    @property
    def current_width(self) -> int:
        """Channels of the first producer at present."""
        return self.num_classes * self.multiplicity

    @property
    def kept_channels(self) -> np.ndarray:
        """0/1 vector ``ndarray[width]`` over the original channels of the first producer."""
        vector: np.ndarray = np.zeros(self.width, dtype=np.uint8)
        vector[self._channels_of_classes[self.kept].reshape(-1)] = 1
        return vector

    def mask_of(self, vector: np.ndarray) -> np.ndarray:
        """Return which classes ``ndarray[classes]`` a 0/1 vector over the first producer's channels keeps.

        Raises:
            ValueError: The vector has another length than the unit.
        """
        if vector.shape != (self.width,):
            raise ValueError(f'kept vector of {self.name!r} has {vector.size} entries, the unit {self.width}')
        return vector.astype(bool)[self._channels_of_classes].all(axis=1)

    @property
    def _channels_of_classes(self) -> np.ndarray:
        """Channels ``ndarray[classes, k]``, counted from the unit's first one."""
        index = self.channels.first.index
        return np.argsort(np.argsort(index.reshape(-1))).reshape(index.shape)

    def reason_to_freeze(self, kinds: Dict[str, str]) -> Optional[str]:
        """Return why this kind of unit does not prune these channels, or None.

        Args:
            kinds (dict[str, str]): Layer name -> ``conv`` or ``linear``.
        """
        if self.mutate_linear:
            return None
        for member in [*self.channels.producers, *self.channels.consumers]:
            if kinds[member.axis.layer] == 'linear':
                return f'linear layer {member.axis.layer!r} is coupled to it (mutate_linear=True prunes it)'
        return None


def by_name(units: Sequence[ChannelUnit]) -> Dict[str, ChannelUnit]:
    """Return name -> unit."""
    return {unit.name: unit for unit in units}
