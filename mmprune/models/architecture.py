"""The dense model: built from a config or given as a module, and traced."""
from typing import Any, Collection, Optional, Tuple, Union

import torch
from mmengine.config import ConfigDict
from torch import nn

from ..arguments import UserError, WrongTypeError
from ..graph.capture import ERRORS
from ..registry import MODELS
from ..units.mutator import ChannelMutator


def build_architecture(architecture: Union[dict, nn.Module],
                       data_preprocessor: Optional[Union[dict, nn.Module]]) -> Tuple[nn.Module, bool]:
    """Return the module, and whether its weights must be initialised: they must if it is built from a config."""
    if isinstance(architecture, nn.Module):
        if data_preprocessor is not None:
            built = MODELS.build(data_preprocessor) if isinstance(data_preprocessor, dict) else data_preprocessor
            architecture.data_preprocessor = built
        return architecture, False
    if not isinstance(architecture, dict):
        raise WrongTypeError(f'architecture must be a config dict or an nn.Module, not {type(architecture).__name__}')
    architecture = ConfigDict(architecture)  # two-stage detectors read train_cfg.rpn
    if data_preprocessor:
        architecture.setdefault('data_preprocessor', data_preprocessor)
    return MODELS.build(architecture), True


def prepare(mutator: ChannelMutator, model: nn.Module, proven: Collection[str] = ()) -> None:
    """Let a mutator trace a model and build its units; its arguments and errors are those of its method.

    Raises:
        UserError: The model itself does not run on the demo input.
    """
    try:
        mutator.prepare(model, proven)
    except ERRORS as error:
        refusal = None if isinstance(error, UserError) else _refusal(mutator, model)
        if refusal is None:
            raise
        shape = getattr(mutator.demo_input, 'input_shape', '')
        raise UserError(f'{type(model).__name__} does not run on the input {shape} (input_shape): {refusal}') from error


def _refusal(mutator: ChannelMutator, model: nn.Module) -> Optional[str]:
    """Return what a model raises on the demo input, in one line; None if it runs."""
    try:
        with torch.no_grad():
            mutator.demo_input(model)
    except ERRORS as error:
        return ' '.join(f'{type(error).__name__}: {error}'.split())
    return None


def pretrained_path(init_cfg: Any) -> Optional[str]:
    """Return the checkpoint that an ``init_cfg`` names, or None."""
    is_pretrained = isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained'
    return init_cfg['checkpoint'] if is_pretrained else None
