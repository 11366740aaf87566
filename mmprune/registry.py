"""Child registries of mmengine's under the scope ``mmprune``.

``type='mmprune.X'`` in any OpenMMLab config finds them without an import: mmengine imports
``mmprune.registry`` for the scope, and each registry imports its own modules on first use.
"""
import importlib
import sys
from typing import Any, Callable, List, Mapping, Optional

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import Registry

from .arguments import UserError, typed

SCOPE = 'mmprune'
#: ``mmprune::mmcls/...`` is a config in the folder .mim beside this file. mmengine looks for the value among
#: distributions, then among modules; of a distribution that is installed editable mmengine 0.10.7 finds no folder.
MODULE2PACKAGE[SCOPE] = __name__


def _modules(folder: str, *names: str) -> List[str]:
    return [f'mmprune.{folder}.{name}' for name in names]


class OwnRegistry(Registry):
    """A registry whose entries refuse arguments of wrong types, if they are ours; users may annotate as they like."""

    def register_module(self, name: Any = None, force: bool = False, module: Optional[Any] = None) -> Any:
        """Register a class or function; as mmengine's, whose arguments these are, and a decorator without a module."""
        if module is not None:
            return super().register_module(name, force, _refusing(module))
        register: Callable[[Any], Any] = super().register_module(name, force)
        return lambda decorated: register(_refusing(decorated))


def _refusing(module: Any) -> Any:
    """Return a class or function of this package that refuses arguments of wrong types; any other as it is."""
    function = module.__init__ if isinstance(module, type) else module  # type: ignore[misc]
    if not str(getattr(function, '__module__', '')).startswith(f'{SCOPE}.'):  # object's constructor is of no module
        return module
    if not isinstance(module, type):
        return typed(module)
    module.__init__ = typed(function)  # type: ignore[misc]
    return module


#: Algorithms, mutators, units, sub-models, distillation losses, and a backbone for CIFAR.
MODELS = OwnRegistry('model', parent=MMENGINE_MODELS, scope=SCOPE, locations=[
    *_modules('units', 'unit', 'mutator'), *_modules('group_fisher', 'unit', 'mutator', 'algorithm'),
    *_modules('models', 'pruning_algorithm', 'prune_sub_model', 'prune_deploy_sub_model', 'transfer', 'distill',
              'cifar_resnet')])
#: Wrappers for distributed training.
MODEL_WRAPPERS = OwnRegistry('model_wrapper', parent=MMENGINE_MODEL_WRAPPERS, scope=SCOPE,
                          locations=_modules('engine', 'distributed'))
#: Runner hooks.
HOOKS = OwnRegistry('hook', parent=MMENGINE_HOOKS, scope=SCOPE, locations=[
    *_modules('engine', 'hook', 'structure_hook', 'resume_hook', 'checkpoint_hook'),
    *_modules('engine.schedules', 'iterative', 'layer_by_layer', 'soft', 'sparsity_training', 'accuracy_curve')])
#: Demo inputs, one per model family.
TASK_UTILS = OwnRegistry('task util', parent=MMENGINE_TASK_UTILS, scope=SCOPE,
                          locations=_modules('graph', 'demo_input', 'detector_inputs'))
#: How important channels are, one a paper.
CRITERIA = OwnRegistry('criterion', scope=SCOPE, locations=_modules(
    'criteria', 'filter_norm', 'fpgm', 'bn_scale', 'apoz', 'thinet', 'taylor', 'oracle', 'mean_activation', 'nisp',
    'dcp', 'random_score', 'group_fisher', 'whole_group', 'least_squares_error', 'ordered_by',
    'measured_error'))
#: What models run in once they are deployed.
RUNTIMES = OwnRegistry('runtime', scope=SCOPE, locations=_modules(
    'deploy.runtimes', 'onnx_runtime', 'open_vino', 'pytorch', 'device'))
#: Small data sets that ship with a dependency.
DATASETS = OwnRegistry('dataset', parent=MMENGINE_DATASETS, scope=SCOPE, locations=_modules('engine', 'digits'))


def build(registry: Registry, cfg: Mapping[str, Any]) -> Any:
    """Build one of our own types: it needs no ``mmprune.`` prefix, whatever the default scope of the run is.

    Raises:
        UserError: The config is no dict, or has no type.
    """
    if not isinstance(cfg, Mapping) or 'type' not in cfg:
        raise UserError(f'{cfg!r} stands where the config of a {registry.name} is expected, a dict with its type')
    return registry.build({'_scope_': SCOPE, **cfg})


#: Package -> our modules that, when imported, register what the package has to know.
PLUGINS = {'mmdeploy': tuple(_modules(
    'deploy', 'mmdeploy_rewriters', 'mmdeploy_task', 'mmdeploy_segmentation', 'mmdeploy_export', 'mmdeploy_boxes',
    'mmdeploy_static_methods'))}


def load_plugins() -> None:
    """Import the plug-ins of every package that is loaded; called wherever a deploy config or model comes to life.

    So mmdeploy's own tools and the processes that they spawn need no extra import.
    """
    for package, plugins in PLUGINS.items():
        if package in sys.modules:
            for plugin in plugins:
                importlib.import_module(plugin)
