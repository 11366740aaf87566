"""The dense model: built from a config, or given as a module."""
from typing import Any, Optional, Tuple, Union

from mmengine.config import ConfigDict
from torch import nn

from ..registry import MODELS


def build_architecture(architecture: Union[dict, nn.Module],
                       data_preprocessor: Optional[Union[dict, nn.Module]]) -> Tuple[nn.Module, bool]:
    """Return the module, and whether its weights must be initialised: they must if it is built from a config."""
    if isinstance(architecture, nn.Module):
        if data_preprocessor is not None:
            built = MODELS.build(data_preprocessor) if isinstance(data_preprocessor, dict) else data_preprocessor
            architecture.data_preprocessor = built
        return architecture, False
    if not isinstance(architecture, dict):
        raise TypeError(f'architecture must be a config dict or an nn.Module, not {type(architecture).__name__}')
    architecture = ConfigDict(architecture)  # two-stage detectors read train_cfg.rpn
    if data_preprocessor:
        architecture.setdefault('data_preprocessor', data_preprocessor)
    return MODELS.build(architecture), True


def pretrained_path(init_cfg: Any) -> Optional[str]:
    """Return the checkpoint that an ``init_cfg`` names, or None."""
    is_pretrained = isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained'
    return init_cfg['checkpoint'] if is_pretrained else None
