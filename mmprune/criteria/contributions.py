"""How much each input channel of a layer contributes to sampled outputs of the layer; ThiNet compares these."""
import math
from typing import Any, Callable, Iterator, Sequence, Tuple, Type

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.watching import watched
from ..group_fisher.ops import GroupFisherMixin
from ..repair.windows import channels_first, sliding_windows

#: Layers whose contributions are computed from windows of their input. Others, among them subclasses with a forward of
#: their own, take the gradient of the sampled outputs.
WINDOWED: Tuple[Type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class LayerGram:
    """``X^T X`` of the contributions ``X[samples, G]`` of the sets that a layer reads to its outputs.

    Args:
        owners (ndarray[input channels]): Number of the set of each channel; see :meth:`Consumers.owners`.
        device (torch.device): Where the matrix lies.

    Attributes:
        numbers (ndarray[G]): Numbers of the sets that the layer reads, ascending; channels of no unit come last.
        matrix (Tensor[G, G], float64): The sum over all samples so far.
    """

    def __init__(self, owners: np.ndarray, device: torch.device) -> None:
        self.numbers, place = np.unique(owners, return_inverse=True)
        self._place = torch.from_numpy(place).to(device)
        self.matrix = torch.zeros(len(self.numbers), len(self.numbers), dtype=torch.float64, device=device)

    def add(self, contributions: Tensor) -> None:
        """Add samples ``Tensor[samples, channels]``; in a grouped layer, one channel for each position in a group."""
        samples, channels = contributions.shape
        by_set = torch.zeros(samples, len(self.numbers), dtype=torch.float64, device=contributions.device)
        by_set.index_add_(1, self._place[:channels], contributions.double())
        self.matrix += by_set.t() @ by_set

    def places(self, numbers: np.ndarray) -> Tensor:
        """Return the rows of some sets in the matrix: ``LongTensor[C]``."""
        return torch.from_numpy(np.searchsorted(self.numbers, numbers))

    def relative(self, numbers: np.ndarray) -> Tensor:
        """Return the products ``Tensor[C, C]`` of some sets, divided by the trace of the matrix."""
        places = self.places(numbers)
        return self.matrix[places][:, places] / self.matrix.trace().clamp_min(torch.finfo(torch.float64).tiny)


class Samples:
    """Draws outputs of layers at random, without repetition within a call of a layer.

    Args:
        positions (int): Locations in each image, at most all of them.
        outputs (int): Output channels at each location, at most all of them.
        seed (int): Seed of the draws.
    """

    def __init__(self, positions: int, outputs: int, seed: int) -> None:
        self.positions, self.outputs = positions, outputs
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, images: int, channels: int, places: int) -> Iterator[Tuple[Tensor, Tensor, Tensor]]:
        """Yield ``(image, channel, place)``, each ``LongTensor[images, positions]``, once for every output channel."""
        place = self._choose((images, places), self.positions)
        channel = self._choose((*place.shape, channels), self.outputs)
        image = torch.arange(images)[:, None].expand_as(place)
        for number in range(channel.size(2)):
            yield image, channel[..., number], place

    def _choose(self, shape: Sequence[int], count: int) -> Tensor:
        return torch.rand(shape, generator=self._generator).topk(min(count, shape[-1])).indices


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
    windows = sliding_windows(module, x)
    spatial = windows.dim() - weight.dim()
    windows = windows.unflatten(1, (groups, -1)).movedim(2, 2 + spatial)
    sizes = windows.shape[2:2 + spatial]
    for image, channel, place in samples.draw(len(x), len(weight), math.prod(sizes)):
        image, channel, group = (index.reshape(-1).to(x.device) for index in (
            image, channel, channel // (len(weight) // groups)))
        where = [torch.from_numpy(index).to(x.device) for index in np.unravel_index(place.reshape(-1).numpy(), sizes)]
        product = windows[(image, group, *where)].double() * weight[channel].double()
        add(product.reshape(*product.shape[:2], -1).sum(2))


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
        for indices in samples.draw(*out.shape):
            for image, channel, place in zip(*(index.t().to(x.device) for index in indices)):
                gradient, = torch.autograd.grad(out[image, channel, place].sum(), leaf, retain_graph=True)
                product = channels_first(module, x.double() * gradient.double())
                add(product.reshape(*product.shape[:2], -1).sum(2))
