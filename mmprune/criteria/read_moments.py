"""Moments of what the layers that read units read, over sampled positions of their outputs."""
from typing import Any, Dict, Tuple

import torch
from torch import Tensor, nn

from ..repair.batches import rows_of
from ..repair.moments import Sums
from ..repair.sampling import enough_positions, share_of_places
from ..repair.windows import channels_first, columns, count_places
from ..units.mutator import ChannelMutator
from .calibration import Calibration
from .contributions import WINDOWED, running_class
from .inputs import reads_seen

#: Inputs of a group of a layer at most, a 3 x 3 window of 512 channels: their covariance takes 170 MB.
MOST_INPUTS = 4608


def read_moments(mutator: ChannelMutator, calibration: Calibration, positions: int, seed: int) -> 'ReadMoments':
    """Run the model on all batches, and return the sums of what its layers read; see :class:`ReadMoments`."""
    found = ReadMoments(mutator, max(1, sum(map(rows_of, calibration.batches))), positions, seed)
    with reads_seen(mutator, found.see):
        for batch in calibration.batches:
            calibration.loss(batch)
    return found


class ReadMoments:
    """Adds up moments of what each layer reads, call by call; :func:`~.inputs.reads_seen` passes on the calls.

    Args:
        mutator (ChannelMutator): Of the units.
        images (int): How many images there will be.
        positions (int): Output locations sampled in each image and layer at most.
        seed (int): Seed of the sampling.

    Attributes:
        sums (dict[str, Sums]): Layer -> its sums.
        refused (dict[str, str]): Layer -> why it has none.
    """

    def __init__(self, mutator: ChannelMutator, images: int, positions: int, seed: int) -> None:
        self.images, self.positions, self.seed = images, positions, seed
        self.sums: Dict[str, Sums] = {}
        self.refused: Dict[str, str] = {}
        self._calls = 0
        self._traced: Dict[str, Tuple[int, int]] = {}  # calls, and positions of an image in all of them
        calls = mutator.complexity.graph.calls
        images = min(call.samples for call in calls)
        for call in calls:
            several, positions = self._traced.get(call.layer, (0, 0))
            self._traced[call.layer] = several + 1, positions + call.out_positions // images

    def see(self, layer: str, module: nn.Module, x: Tensor, *rest: Any) -> None:
        """Add a call of a layer."""
        weight: Any = module.weight
        if running_class(module) not in WINDOWED:
            self.refused[layer] = f'is {type(module).__name__}, no plain convolution or linear layer'
        elif weight[0].numel() > MOST_INPUTS:
            self.refused[layer] = f'reads {weight[0].numel()} values for each output, and {MOST_INPUTS} is the limit'
        if layer in self.refused:
            return
        x = channels_first(module, x if x.dtype == torch.float64 else x.float())
        count = count_places(module, x)
        most = enough_positions(weight[0].numel(), self.images, self.positions)
        calls, positions = self._traced.get(layer, (1, count))
        share = min(1.0, most / max(1, positions))
        places = share_of_places(share, count, calls > 1, self.seed, self._calls, layer)
        self._calls += 1
        if len(places):
            self.sums.setdefault(layer, Sums()).add(columns(module, x, places.to(x.device)))
