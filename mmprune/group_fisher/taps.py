"""Recording what the loss gains or loses by each channel: taps on the inputs of all layers that read units."""
from contextlib import contextmanager
from typing import Any, Collection, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..graph.channels import CoupledChannels
from ..graph.factors import DIMENSIONS
from ..graph.trace import LayerCall
from ..units.consumers import Consumers
from ..units.layer import is_tappable, layer_reading
from .ops import add_tap, recorded_with, remove_tap


class TapRecorder:
    """Taps the inputs of the layers that read units, and adds up what they record by set.

    Args:
        consumers (Consumers): The layers, and the sets of their inputs.

    Attributes:
        layers (dict[str, nn.Module]): The tapped ones.
    """

    def __init__(self, consumers: Consumers) -> None:
        self.consumers = consumers
        self.layers: Dict[str, nn.Module] = dict(consumers.layers)
        for inner in [name for item in self.layers.items() for name in recorded_with(*item)]:
            self.layers.pop(inner, None)
        for module in self.layers.values():
            add_tap(module)
        graph = consumers.mutator.complexity.graph
        samples = [(call.weight, call.samples) for call in graph.calls] + [
            (product.axis[0], product.samples) for product in graph.products if product.axis is not None]
        self._samples = {layer: tuple(sorted({count for name, count in samples if name == consumers.weights[layer]}))
                         for layer in self.layers}
        self.refresh()

    def refresh(self) -> None:
        """Work out again which set each input channel belongs to, after a cut; layers of removed blocks are let go."""
        removed = self.consumers.mutator.surgery.removed_tensors
        for layer in [layer for layer in self.layers if self.consumers.weights[layer] in removed]:
            remove_tap(self.layers.pop(layer))
        self._owners = {layer: torch.from_numpy(self.consumers.owners(layer)) for layer in self.layers}
        self._dims = {layer: torch.from_numpy(self.consumers.owners(layer, DIMENSIONS)) for layer in self.layers
                      if self.consumers.reads_dimensions(layer)}
        self._indices: Dict[Tuple[Any, ...], Tensor] = {}

    def record(self, recording: bool) -> None:
        """Switch the taps on or off; what was recorded and not taken is dropped."""
        for module in self.layers.values():
            module.recording = recording  # type: ignore[assignment]
            module.stats.clear()  # type: ignore[operator, union-attr]

    @contextmanager
    def lifted(self, layers: Collection[str]) -> Iterator[None]:
        """Give some layers their plain class back for a block, in which it may become another one."""
        modules = [(self.layers[layer], self.layers[layer].recording) for layer in layers if layer in self.layers]
        for module, _ in modules:
            remove_tap(module)
        try:
            yield
        finally:
            for module, recording in modules:
                add_tap(module)
                module.recording = recording

    def take(self) -> List[Tuple[str, Tensor]]:
        """Return (layer, ``Tensor[N, C]``) for every tapped call that took part in the backward pass."""
        stats: List[Tuple[str, Tensor]] = [(layer, stat) for layer, module in self.layers.items()
                                           for stat in module.stats]  # type: ignore[union-attr]
        # a recomputed or unused branch has none
        return [(layer, stat.grad) for layer, stat in stats if stat.grad is not None]

    def per_set(self, recorded: Sequence[Tuple[str, Tensor]], dtype: torch.dtype) -> List[Tensor]:
        """Return for every batch ``Tensor[N, total sets]``: ``sum over layers, calls, positions of x * dL/dx``.

        Layers that saw another batch (heads on regions) are summed apart. A batch is known by its size, in this
        iteration and when the model was traced: two regions of two images are not their two images.

        Args:
            recorded (list[tuple[str, Tensor[N, C]]]): From :meth:`take`.
            dtype (torch.dtype): To add up in.
        """
        batches: Dict[Any, Tuple[List[str], List[Tensor]]] = {}
        for layer, grad in recorded:
            layers, grads = batches.setdefault((self._samples[layer], len(grad)), ([], []))
            layers.append(layer)
            grads.append(grad)
        sums = []
        for layers, grads in batches.values():
            joined = torch.cat(grads, 1).to(dtype)
            index = self._index(tuple(layers), joined.device)
            found = joined.new_zeros(len(joined), self.consumers.total + 1).index_add_(1, index, joined)
            for layer, grad in zip(layers, grads):
                if layer in self._dims:
                    found.index_add_(1, self._dims[layer].to(grad.device), grad.to(dtype))
            sums.append(found[:, :-1])
        return sums

    def _index(self, layers: Tuple[str, ...], device: torch.device) -> Tensor:
        if layers not in self._indices:
            self._indices[layers] = torch.cat([self._owners[layer] for layer in layers]).to(device)
        return self._indices[layers]

    def remove(self) -> None:
        """Give every layer its plain class back."""
        for module in self.layers.values():
            remove_tap(module)
        self.layers = {}


def untapped_weight(model: nn.Module, channels: CoupledChannels, calls: Sequence[LayerCall]) -> Optional[str]:
    """Return a weight that reads channels where no tap can record them, by the traced calls; None if there is none."""
    return next((member.axis.tensor for member in channels.consumers
                 if not is_run_by_its_module(model, member.axis.tensor, calls)), None)


def is_run_by_its_module(model: nn.Module, weight: str, calls: Sequence[LayerCall]) -> bool:
    """Tell whether only the conv or linear module that owns a weight uses it, so that its input is what is read."""
    found = layer_reading(model, weight)
    return found is not None and is_tappable(found[1]) and all(
        call.by_module for call in calls if call.weight == weight)
