"""A pruned model as a plain model, without the algorithm, for finetuning and testing."""
import types
from typing import Dict, Optional, Union

import numpy as np
from torch import nn

from ..arguments import WrongTypeError, check_divisor
from ..registry import MODELS, build
from ..units.mutator import ChannelMutator
from ..units.structure import Structure
from .divisor import widen
from .pruning_algorithm import PruningAlgorithm

FIX_SUBNET = 'fix_subnet'


def structure_of(model: nn.Module) -> Optional[Structure]:
    """Return the structure of a model made by this module, or None."""
    return getattr(model, FIX_SUBNET, None)


@MODELS.register_module()
def GroupFisherSubModel(algorithm: Union[dict, PruningAlgorithm], divisor: int = 1,  # noqa: N802
                        data_preprocessor: Optional[dict] = None) -> nn.Module:
    """Turn an algorithm with a pruned checkpoint into a plain, smaller model.

    Args:
        algorithm (dict or PruningAlgorithm): Of any kind; as a config, its
            ``init_cfg=dict(type='Pretrained', checkpoint=...)`` names the pruned checkpoint.
        divisor (int): Widen every unit to a multiple of it; see :func:`~mmprune.models.divisor.widen`.
        data_preprocessor (dict, optional): Given to the architecture.

    Returns:
        nn.Module: The architecture, its state dict keys those of the dense model, ``model.fix_subnet`` its structure.
    """
    check_divisor(divisor)
    if isinstance(algorithm, dict):
        given = {} if data_preprocessor is None else dict(data_preprocessor=data_preprocessor)
        algorithm = build(MODELS, {**given, **algorithm})
    if not isinstance(algorithm, PruningAlgorithm):
        raise WrongTypeError('algorithm must be a PruningAlgorithm, such as a GroupFisherAlgorithm, or its config, not '
                        f'{type(algorithm).__name__}')
    algorithm.init_weights()
    mutator = algorithm.mutator
    mutator.release()
    if divisor > 1:
        widen(mutator, divisor)
    return make_static(algorithm.architecture, mutator)


def make_static(model: nn.Module, mutator: ChannelMutator) -> nn.Module:
    """Give a model its structure as ``fix_subnet``, and keep a Runner from initialising its weights before training."""
    setattr(model, FIX_SUBNET, dict(mutator.portable_structure))
    object.__setattr__(model, '_kept_outputs', _kept_outputs(mutator))
    for module in model.modules():
        if hasattr(module, '_is_init'):
            module.init_cfg, module._is_init = None, True
    if hasattr(model, 'init_weights'):
        model.init_weights = types.MethodType(_keep_weights, model)
    return model


def _kept_outputs(mutator: ChannelMutator) -> Dict[str, np.ndarray]:
    """Return pruned layer -> original numbers of its output channels, in their order, ``ndarray[channels]``."""
    outputs: Dict[str, np.ndarray] = {}
    for tensor, members in mutator.surgery.members.items():
        layer, _, kind = tensor.rpartition('.')
        axis = next((member.axis for _, member in members if member.axis.role in ('out', 'depthwise', 'affine')), None)
        if kind == 'weight' and axis is not None:
            outputs[layer] = mutator.layout(tensor)[axis.dim].astype(int)
    return outputs


def kept_outputs(model: nn.Module, layer: str) -> Optional[np.ndarray]:
    """Return the original numbers of a layer's output channels, ``ndarray[channels]``; None if it is not pruned."""
    kept: Dict[str, np.ndarray] = getattr(model, '_kept_outputs', {})
    return kept.get(layer)


def _keep_weights(model: nn.Module) -> None:
    """Do nothing in the place of ``init_weights``: the weights are those of the checkpoint."""
