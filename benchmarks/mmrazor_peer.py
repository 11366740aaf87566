"""mmrazor's group Fisher algorithm beside ours, from a checkout or an unpacked wheel that the user gives.

Its quantization modules do not import on torch 2 and are replaced by empty ones; the pruning part runs as it is.
"""
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any, Dict

from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from torch import nn


class _Empty(types.ModuleType):
    """A module in which every name is a class."""

    __path__: list = []
    __all__: list = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)
        return type(name, (), {})


class _WithoutQuantization(importlib.abc.MetaPathFinder, importlib.abc.Loader):

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        last = name.rsplit('.', 1)[-1]
        if name.startswith('mmrazor.') and ('quant' in last or 'observer' in last):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def build(path: str, architecture: Dict[str, Any], normalization_type: str) -> nn.Module:
    """Return mmrazor's algorithm around a dense model; it never comes to a prune event.

    Args:
        path (str): Folder that holds ``mmrazor/``.
        architecture (dict): Config of the dense model, with its scope and data preprocessor.
        normalization_type (str): ``act`` or ``flops``.
    """
    if not (Path(path) / 'mmrazor' / '__init__.py').is_file():
        sys.exit(f'--peer: there is no mmrazor in {path!r}; give the folder that holds mmrazor/')
    sys.meta_path.insert(0, _WithoutQuantization())
    sys.path.insert(0, path)
    importlib.import_module('mmrazor.implementations.pruning.group_fisher')
    models = importlib.import_module('mmrazor.registry').MODELS
    DefaultScope.get_instance('mmrazor', scope_name='mmrazor')
    hub = MessageHub.get_current_instance()
    for key, value in dict(iter=1, max_iters=10**6, epoch=0, max_epochs=1).items():
        hub.update_info(key, value)
    architecture = dict(architecture)
    preprocessor = {'type': 'ClsDataPreprocessor', **architecture.pop('data_preprocessor'),
                    '_scope_': architecture['_scope_']}
    config = dict(
        type='mmrazor.GroupFisherAlgorithm', architecture=architecture, data_preprocessor=preprocessor, interval=10**9,
        mutator=dict(
            type='mmrazor.GroupFisherChannelMutator',
            parse_cfg=dict(type='ChannelAnalyzer', tracer_type='FxTracer'),
            channel_unit_cfg=dict(type='GroupFisherChannelUnit',
                                  default_args=dict(normalization_type=normalization_type))))
    with DefaultScope.overwrite_default_scope('mmrazor'):
        return models.build(config)
