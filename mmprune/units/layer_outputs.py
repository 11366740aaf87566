"""What a model and its conv and linear modules return in a forward, and which functions it calls."""
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..graph.idle import CONV_OR_LINEAR
from ..graph.watching import Enough, watched
from .equivalence import Forward, outputs


class LayerOutput(NamedTuple):
    """What a conv or linear module returned, summed with fixed weights over its positions, since it is large."""

    layer: str  #: name of the module
    shape: Tuple[int, ...]  #: its shape but for the channels
    sums: Tensor  #: ``Tensor[N, C]`` of a convolution, ``Tensor[C]`` of a linear layer


class Run(NamedTuple):
    """The result of a forward pass."""

    outputs: List[Tensor]  #: outputs of the model; empty where it was stopped
    layers: List[LayerOutput]  #: every call of a conv or linear module, in order


def run(model: nn.Module, forward: Forward, training: bool, look: Optional[Callable[[LayerOutput], None]] = None,
        most: Optional[int] = None) -> Run:
    """Run a model and record the outputs of the model and of its conv and linear modules.

    Args:
        model (nn.Module): The model.
        forward (Callable): Called with the model; runs it and returns its outputs.
        training (bool): Run it in train mode.
        look (Callable, optional): Called with every layer's output; what it raises ends the forward.
        most (int, optional): Stop after so many layers.
    """
    layers: List[LayerOutput] = []

    def keep(layer: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        if not isinstance(out, Tensor):
            return
        layers.append(summed(layer, module, out))  # now, since an activation may follow in place
        if look is not None:
            look(layers[-1])
        if len(layers) == most:
            raise Enough

    modules = [item for item in model.named_modules() if isinstance(item[1], CONV_OR_LINEAR)]
    with watched(modules, after=keep):
        try:
            return Run(outputs(model, forward, training), layers)
        except Enough:
            return Run([], layers)


def summed(layer: str, module: nn.Module, out: Tensor) -> LayerOutput:
    """Sum the output of a conv or linear module over its positions, with weights from 0.5 to 2.5."""
    axis = out.dim() - 1 if isinstance(module, nn.Linear) else out.dim() - module.weight.dim() + 1
    shape = (*out.shape[:axis], *out.shape[axis + 1:])
    values = out.reshape(-1, out.size(axis)).t() if isinstance(module, nn.Linear) else out.flatten(axis + 1)
    weights = 1.5 + torch.cos(1.7 * torch.arange(values.size(-1), dtype=out.real.dtype))
    return LayerOutput(layer, shape, values @ weights.to(out.dtype))


def functions_of(model: nn.Module, forward: Forward) -> List[str]:
    """Return the names of the torch functions that a forward in eval mode calls, in order."""
    names = _Names()
    with names:
        outputs(model, forward, False)
    return names.found


class _Names(TorchFunctionMode):
    """Notes the names of functions."""

    def __init__(self) -> None:
        super().__init__()
        self.found: List[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found.append(getattr(func, '__name__', ''))
        return func(*args, **(kwargs or {}))
