"""How much each input channel of a layer contributes to sampled outputs of the layer; ThiNet compares these."""
from itertools import product
from typing import Any, Callable, Tuple, Type

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.watching import watched
from ..group_fisher.ops import GroupFisherMixin
from ..repair.moments import Sums
from ..repair.sampling import drawn
from ..repair.windows import channels_first, columns, count_places

#: Layers whose contributions are computed from windows of their input. Others, among them subclasses with a forward of
#: their own, take the gradient of the sampled outputs.
WINDOWED: Tuple[Type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class LayerGram:
    """``X^T X`` of the contributions ``X[samples, G]`` of the sets that a layer reads to its outputs.

    Args:
        owners (ndarray[input channels]): Number of the set of each channel; see :meth:`Consumers.owners`.
        device (torch.device): Where samples lie.

    Attributes:
        numbers (ndarray[G]): Numbers of the sets that the layer reads, ascending; channels of no unit come last.
    """

    def __init__(self, owners: np.ndarray, device: torch.device) -> None:
        self.numbers, place = np.unique(owners, return_inverse=True)
        self._place = torch.from_numpy(place).to(device)
        self._sums = Sums()

    def add(self, contributions: Tensor) -> None:
        """Add samples ``Tensor[samples, channels]``; in a grouped layer, one channel for each position in a group."""
        samples, channels = contributions.shape
        by_set = torch.zeros(len(self.numbers), samples, dtype=torch.float64, device=contributions.device)
        by_set.index_add_(0, self._place[:channels], contributions.double().t())
        self._sums.add(by_set[None])

    @property
    def matrix(self) -> Tensor:
        """``Tensor[G, G]``, float64: the sum over all samples so far."""
        return (self._sums.moments().uncentred().xx[0] * self._sums.count).cpu()

    def places(self, numbers: np.ndarray) -> Tensor:
        """Return the rows of some sets in the matrix: ``LongTensor[C]``."""
        return torch.from_numpy(np.searchsorted(self.numbers, numbers))

    def relative(self, numbers: np.ndarray) -> Tensor:
        """Return the products ``Tensor[C, C]`` of some sets, divided by the trace of the matrix."""
        places, matrix = self.places(numbers), self.matrix
        return matrix[places][:, places] / matrix.trace().clamp_min(torch.finfo(torch.float64).tiny)


class Samples:
    """Draws outputs of layers at random, without repetition within a call of a layer.

    Args:
        positions (int): Locations in each image, at most all of them.
        outputs (int): Output channels at each location, at most all of them.
        seed (int): Seed of the draws.
    """

    def __init__(self, positions: int, outputs: int, seed: int) -> None:
        self.positions, self.outputs, self.seed = positions, outputs, seed
        self._calls = 0

    def draw(self, images: int, channels: int, places: int) -> Tuple[Tensor, Tensor]:
        """Return locations ``LongTensor[images, P]`` and output channels at each, ``LongTensor[images, P, O]``."""
        self._calls += 1
        place = drawn(images, places, self.positions, self.seed, self._calls, 'place')
        channel = drawn(place.numel(), channels, self.outputs, self.seed, self._calls, 'channel')
        return place, channel.unflatten(0, place.shape)


def running_class(module: nn.Module) -> Any:
    """Return the class that defines what a module computes; recording group Fisher information changes nothing."""
    return next(kind for kind in type(module).__mro__ if kind is not GroupFisherMixin
                and ('forward' in vars(kind) or '_conv_forward' in vars(kind)))


def add_by_windows(module: Any, x: Tensor, samples: Samples, add: Callable[[Tensor], None]) -> None:
    """Pass on the weights times the inputs in the window of each sampled output.

    Args:
        module (nn.Module): A convolution or linear layer.
        x (Tensor[N, C, *]): Its input.
        samples (Samples): Draws the outputs.
        add (Callable): Called with the contributions ``Tensor[samples, C / groups]``.
    """
    weight, groups = module.weight.detach(), getattr(module, 'groups', 1)
    place, channels = (one.to(x.device) for one in samples.draw(len(x), len(weight), count_places(module, x)))
    read = columns(module, x, place)
    column = torch.arange(read.size(2), device=x.device)
    for channel in channels.flatten(0, 1).unbind(1):
        group = torch.div(channel, len(weight) // groups, rounding_mode='floor')
        parts = read[group, :, column].double() * weight[channel].flatten(1).double()
        add(parts.unflatten(1, (weight.size(1), -1)).sum(2))


def add_by_gradients(module: nn.Module, x: Tensor, forward: Callable[[Tensor], Tensor], samples: Samples,
                     add: Callable[[Tensor], None]) -> None:
    """Pass on the inputs times the gradient of each sampled output: their contributions if the layer is linear in them.

    As :func:`add_by_windows`, for any layer: ``x`` may be ``Tensor[N, *, C]``, ``forward`` runs the layer on an input,
    ``add`` gets ``Tensor[N, C]``. The outputs of layers inside this layer count as constants.
    """
    with watched(module.named_children(), after=lambda *call: call[-1].detach()), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        out = channels_first(module, forward(leaf))
        out = out.reshape(*out.shape[:2], -1)
        place, channel = (one.to(x.device) for one in samples.draw(*out.shape))
        image = torch.arange(len(x), device=x.device)
        for number, output in product(range(place.size(1)), range(channel.size(2))):
            chosen = out[image, channel[:, number, output], place[:, number]]
            gradient, = torch.autograd.grad(chosen.sum(), leaf, retain_graph=True)
            parts = channels_first(module, x.double() * gradient.double())
            add(parts.reshape(*parts.shape[:2], -1).sum(2))
