"""The weight that a conv or linear module computes from its parameter before it uses it, as standardised layers do."""
from typing import Any, Dict, List, NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

#: Arguments of the functions of layers whose filters are the rows of their weights, in their order.
_CONV = ('input', 'weight', 'bias', 'stride', 'padding', 'dilation', 'groups')
ARGUMENTS: Dict[str, Any] = {'conv1d': _CONV, 'conv2d': _CONV, 'conv3d': _CONV, 'linear': _CONV[:3]}


class WeightCall(NamedTuple):
    """How a module has called the function of its layer."""

    arguments: Dict[str, Any]  #: by name
    out: Tensor  #: what the function returned
    read: Tensor  #: what the module was given
    result: Any  #: what it returned

    @property
    def weight(self) -> Tensor:
        """The weight that the module computes with."""
        return self.arguments['weight']  # type: ignore[no-any-return]


class _Calls(TorchFunctionMode):
    """Keep the calls of layer functions with a weight of one shape."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape
        self.found: List[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        names = ARGUMENTS.get(getattr(func, '__name__', ''))
        if names is not None:
            arguments = {**dict(zip(names, args)), **kwargs}
            if arguments['weight'].shape == self.shape:
                self.found.append((arguments, out))
        return out


def probe(module: nn.Module, more: int = 0) -> Tensor:
    """Return zeros that a conv or linear module can read, ``Tensor[1, C, *]``, a kernel large and some more."""
    weight: Any = module.weight
    if isinstance(module, nn.modules.conv._ConvNd):
        spaces = [int(apart) * (int(size) - 1) + 1 + more for apart, size in zip(module.dilation, weight.shape[2:])]
        return weight.new_zeros((1, weight.size(1) * int(module.groups), *spaces))  # type: ignore[no-any-return]
    return weight.new_zeros((1, weight.size(1)))  # type: ignore[no-any-return]


def weight_call(module: nn.Module, more: int = 0) -> Optional[WeightCall]:
    """Run the forward of a conv or linear module on zeros, without its hooks, and return its call of the layer.

    Args:
        module (nn.Module): The module; its forward takes one tensor.
        more (int): How much wider than the kernel its input is.

    Returns:
        WeightCall or None: None if the forward does not call the layer once, with a weight of the parameter's shape.
    """
    weight: Any = module.weight
    x, calls = probe(module, more), _Calls(weight.shape)
    with torch.no_grad(), calls:
        result = type(module).forward(module, x)
    if len(calls.found) != 1:
        return None
    (arguments, out), = calls.found
    return WeightCall(arguments, out, x, result)


def is_plain(module: nn.Module) -> bool:
    """Tell whether a conv or linear module does nothing but compute a weight: torch's own forward does the rest.

    A padding that depends on the size of the input shows at the sizes of a whole stride.
    """
    if not isinstance(module, nn.modules.conv._ConvNd):
        calls, names = [weight_call(module)], list(_CONV[2:3])
    else:
        if module.padding_mode != 'zeros':
            return False
        calls = [weight_call(module, more) for more in range(max(map(int, module.stride)) + 1)]
        names = list(_CONV[2:])
    return all(call is not None and call.arguments['input'] is call.read and call.result is call.out and all(
        call.arguments.get(name) is getattr(module, name) or (
            name != 'bias' and call.arguments.get(name) == getattr(module, name)) for name in names) for call in calls)


@torch.no_grad()
def columns_are_free(module: nn.Module) -> bool:
    """Tell whether each column of the weight that a module computes depends on that column of the parameter alone.

    Columns of zeros must also stay zeros: a scale does that, a mean over the columns does not. It is tried on random
    numbers in all parameters of the module, since the present ones may be all alike, and a gain of zero hides the rest.
    """
    weight: Any = module.weight
    parameters = list(module.parameters())
    own, generator = [parameter.data for parameter in parameters], torch.Generator().manual_seed(0)
    gone = torch.arange(weight.size(1), device=weight.device) % 2 == 0
    try:
        for parameter in parameters:
            parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter)
        whole = weight_call(module)
        weight.data = weight.data.clone()
        weight.data[:, gone] = 0
        part = weight_call(module)
    finally:
        for parameter, before in zip(parameters, own):
            parameter.data = before
    return whole is not None and part is not None and bool(torch.allclose(
        whole.weight[:, ~gone], part.weight[:, ~gone]) and not part.weight[:, gone].any())
