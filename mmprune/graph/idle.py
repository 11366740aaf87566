"""Conv and linear modules whose channels the trace cannot follow, and why."""
from typing import Collection, Dict, List, Tuple, Type

from torch import nn
from torch.nn.parameter import is_lazy

from ..arguments import UserError
from .trace import IdleLayer

#: Class of a layer -> its kind.
KINDS: Dict[Type[nn.Module], str] = {nn.modules.conv._ConvNd: 'conv', nn.Linear: 'linear'}
CONV_OR_LINEAR = tuple(KINDS)
NEVER_RUN = 'the traced forward never runs it'
NOT_FOLLOWED = 'it runs, but its weight is not used by a conv or linear function that is followed'
COMPUTED = 'its weight is computed (spectral norm, standardisation), and cannot be cut: make it a parameter first'


def layer_modules(model: nn.Module, names: Dict[int, str]) -> Dict[str, IdleLayer]:
    """Return weight name -> layer for every conv and linear module, as if none had run yet.

    Raises:
        UserError: A module has lazy parameters that are not initialised yet.
    """
    for name, module in model.named_modules():
        if any(is_lazy(parameter) for parameter in module._parameters.values()):
            raise UserError(f'module {name!r} has parameters that are not initialised yet: run the model once on an '
                            'input before it is pruned')
    layers = []
    for name, module in model.named_modules():
        kind = next((kind for base, kind in KINDS.items() if isinstance(module, base)), None)
        if kind is None:
            continue
        weight = module._parameters.get('weight')
        if weight is not None:
            layers.append(IdleLayer(names[id(weight)], kind, tuple(weight.shape), NEVER_RUN))
        else:
            layers.append(IdleLayer(f'{name}.weight' if name else 'weight', kind, _size(module), COMPUTED))
    return {layer.weight: layer for layer in layers}


def _size(layer: nn.Module) -> Tuple[int, int]:
    """Return the first two sizes of the weight of a conv or linear layer, without computing it."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    assert isinstance(layer, nn.modules.conv._ConvNd)
    if layer.transposed:
        return layer.in_channels, layer.out_channels // layer.groups
    return layer.out_channels, layer.in_channels // layer.groups


def whole_modules(model: nn.Module, layers: Collection[str]) -> List[str]:
    """Return the outermost modules all of whose conv and linear layers are among those named.

    Args:
        model (nn.Module): The model.
        layers (collection[str]): Names of conv and linear modules.
    """
    every = [name for name, module in model.named_modules() if isinstance(module, CONV_OR_LINEAR)]
    found: List[str] = []
    for name, _ in model.named_modules():  # from the outside to the inside
        if any(name == outer or name.startswith(f'{outer}.') for outer in found):
            continue
        inside = [layer for layer in every if layer == name or layer.startswith(f'{name}.' if name else '')]
        if inside and all(layer in layers for layer in inside):
            found.append(name)
    return found
