"""mmprune: config-driven structural pruning for OpenMMLab models and plain PyTorch networks."""
import importlib
from typing import Any

from .version import __version__, check_versions

check_versions()

#: Name -> the module that has it; imported when it is first asked for.
_PUBLIC = {'Pruner': 'pruning.pruner', 'save_structure': 'pruning.structure_file',
           'apply_structure': 'pruning.structure_file', 'bn_sparsity_': 'criteria.bn_sparsity',
           'Criterion': 'criteria.criterion',
           'GroupFisherAlgorithm': 'group_fisher.algorithm', 'GroupFisherChannelUnit': 'group_fisher.unit',
           'register_op': 'graph.rules.table', 'register_layer': 'graph.rules.table',
           'register_module': 'graph.rules.table', 'register_counter': 'units.complexity',
           'keeps_channels': 'graph.rules.op',
           'register_attention': 'units.attention.taking_over', 'PrunableAttention': 'units.attention.taking_over',
           'AttentionProduct': 'units.attention.product'}

__all__ = ['__version__', *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_PUBLIC[name]}'), name)
