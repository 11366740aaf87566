"""mmprune: config-driven structural pruning for OpenMMLab models and plain PyTorch networks."""
import importlib
from typing import Any

from .version import __version__, check_versions

check_versions()

#: Name -> the module that has it; imported when it is first asked for.
_PUBLIC = {'Pruner': 'pruner', 'save_structure': 'pruner', 'apply_structure': 'pruner',
           'bn_sparsity_': 'sparsity', 'register_counter': 'units.complexity',
           **dict.fromkeys(('register_op', 'register_layer', 'register_module'), 'graph.rules.table'),
           'keeps_channels': 'graph.rules.op'}

__all__ = ['Pruner', '__version__', 'apply_structure', 'bn_sparsity_', 'keeps_channels', 'register_counter',
           'register_layer', 'register_module', 'register_op', 'save_structure']


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_PUBLIC[name]}'), name)
