"""What the short prune, finetune and deploy configs call: each helper returns plain dicts.

They run while the config file is read, so that the config a Runner dumps is flat and needs neither them nor the file
it came from. What their arguments mean:

- ``base`` (dict): The config that is built upon, ``_base_``: for pruning and deployment the one that the model was
  trained with, for finetuning the prune config, for distillation the finetune config.
- ``pretrained_path`` (str): Checkpoint of the dense model; None, where a schedule prunes, for a model from scratch.
- ``input_shape`` (tuple[int]): Input that the FLOPs are counted for, ``(N, C, H, W)``; by default one image of the size
  that the base's test pipeline gives.
- ``mutate_linear`` (bool): Prune channels that linear layers read or produce too.
- ``choice`` (dict): ``include``, ``exclude`` and ``min_channels``; see :class:`~mmprune.units.choice.Choice`. Where
  group Fisher prunes a detector or a pose estimator, ``min_channels`` is a tenth unless it is given.
- ``interval`` (int): Iterations between two prune events of group Fisher.
- ``normalization_type`` (str): What its scores are divided by: ``act``, ``flops``, ``latency`` or ``none``.
- ``lr_ratio`` (float): The learning rate of the base config is multiplied by this.
- ``target_flop_ratio``, ``target_latency`` (float): The run ends when this share of the FLOPs, or of the time, is left.
- ``runtime`` (dict): Where time is measured; see :class:`~mmprune.latency.meter.Meter`.
- ``repair`` (dict): The repair at the target, ``dict(images=512)``; see :class:`~mmprune.engine.run_repair.EndRepair`.
- ``schedule`` (dict or list[dict]): A hook of :mod:`mmprune.engine.schedules`, such as
  ``dict(type='mmprune.OneShotPruningHook', criterion='FPGM', target=dict(ratio=0.3))``.
- ``pruned_path`` (str): The checkpoint that the prune run wrote at its target.
- ``finetune_lr`` (float): Learning rate, usually that of the original training.
- ``divisor`` (int): Units become a multiple of it: for finetuning by fresh channels that change nothing at the start,
  for deployment by zeros after loading.
- ``fix_subnet`` (dict or str): The structure, or the path of its json file.
"""
import copy
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from mmengine.config import Config as BaseConfig

from .arguments import UserError, check_divisor, number, one_of, share, typed, whole_number
from .graph.detector_inputs import demo_input_of
from .graph.input_shape import shape_or_test_input
from .registry import load_plugins
from .units.choice import check_choice
from .units.complexity import LATENCY, RUN_NORMALIZATIONS
from .units.structure import read_structure

Config = Dict[str, Any]
#: ``model, model_wrapper_cfg, optim_wrapper, custom_hooks``
Settings = Tuple[Config, Config, Config, List[Config]]
#: ``param_scheduler, train_cfg``
Schedule = Tuple[List[Config], Config]
OWN_HOOKS = 'mmprune.'
#: Scopes of detectors and pose estimators, of whose units group Fisher leaves at least this share (docs/results.md).
FLOOR_SCOPES, FLOOR = ('mmdet', 'mmpose'), 0.1


def plain(value: Any) -> Any:
    """Return a config value as plain dicts, lists and scalars, independent of its source."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return copy.deepcopy(value)


def architecture_of(base: Mapping[str, Any]) -> Config:
    """Return the dense model of a base config, self-contained: with its scope and its data preprocessor.

    Raises:
        UserError: The config has no model.
    """
    architecture = plain(_part(base, 'model'))
    if base.get('data_preprocessor') is not None:
        architecture.setdefault('data_preprocessor', plain(base['data_preprocessor']))
    if base.get('default_scope'):
        architecture['_scope_'] = base['default_scope']
    return architecture


def _part(base: Mapping[str, Any], *path: str, what: str = 'config of a model') -> Any:
    """Return a value inside a config; raise UserError if it is missing, since the base is not what it must be."""
    value: Any = base
    for key in path:
        if not isinstance(value, (Mapping, BaseConfig)) or key not in value:
            raise UserError(f'the base is no {what}: it has no {".".join(path)}')
        value = value[key]
    return value


def _algorithm(base: Mapping[str, Any], pretrained_path: Optional[str], input_shape: Optional[Sequence[int]],
               choice: Optional[Config], kinds: Tuple[str, str, str], unit: Config) -> Config:
    """Return a pruning algorithm; ``kinds`` are its type and those of its mutator and units, which get ``unit``."""
    check_choice(choice or {})
    architecture = architecture_of(base)
    if pretrained_path is not None:
        architecture['init_cfg'] = dict(type='Pretrained', checkpoint=pretrained_path)
    algorithm, mutator, channel_unit = (OWN_HOOKS + kind for kind in kinds)
    return dict(
        _delete_=True, type=algorithm, architecture=architecture,
        mutator=dict(type=mutator, channel_unit_cfg=dict(type=channel_unit, **unit),
                     demo_input=demo_input_of(architecture, shape_or_test_input(input_shape, base)),
                     **plain(choice or {})))


def _settings(base: Mapping[str, Any], model: Config, wrapper: str, lr: float, hooks: List[Config]) -> Settings:
    wrapper_cfg = dict(type=OWN_HOOKS + wrapper, broadcast_buffers=False,
                       find_unused_parameters=bool(base.get('find_unused_parameters', False)))
    return model, wrapper_cfg, dict(optimizer=dict(lr=lr)), hooks


def _lr(base: Mapping[str, Any], ratio: float) -> float:
    number('lr_ratio', ratio, 0, 1000, 'the learning rate of the base is multiplied by it', above=True)
    return float(_part(base, 'optim_wrapper', 'optimizer', 'lr', what='config of a training')) * ratio


def structure_hooks(interval: int = 1) -> List[Config]:
    """Return the hooks of exact resume and of the structure."""
    return [dict(type='mmprune.ExactResumeHook'),
            dict(type='mmprune.PruningStructureHook', by_epoch=True, interval=interval)]


@typed
def group_fisher_model(base: Mapping[str, Any], pretrained_path: str, interval: int, normalization_type: str,
                       input_shape: Optional[Sequence[int]] = None, mutate_linear: bool = False,
                       choice: Optional[Config] = None) -> Config:
    """Return the model of a prune config."""
    whole_number('interval', interval, must='it is the number of iterations between two prune events, so it must be a '
                                            'whole number of 1 or more')
    one_of('normalization_type', normalization_type, RUN_NORMALIZATIONS)
    if base.get('default_scope') in FLOOR_SCOPES:
        choice = dict(dict(min_channels=FLOOR), **(choice or {}))
    model = _algorithm(base, pretrained_path, input_shape, choice,
                       ('GroupFisherAlgorithm', 'GroupFisherChannelMutator', 'GroupFisherChannelUnit'),
                       dict(normalization_type=normalization_type, mutate_linear=mutate_linear))
    return dict(model, interval=interval)


@typed
def prune_hooks(base: Mapping[str, Any], target_flop_ratio: Optional[float] = None, log_interval: int = 10,
                target_latency: Optional[float] = None, runtime: Optional[Config] = None,
                repair: Optional[Config] = None) -> List[Config]:
    """Return the hooks of a prune config: the base's own, exact resume, the structure, the target that ends the run."""
    whole_number('log_interval', log_interval)
    if (target_flop_ratio is None) == (target_latency is None):
        raise UserError('a prune run ends at target_flop_ratio or at target_latency; give one of them')
    option, name, target = ('target_flop_ratio', 'flops', target_flop_ratio) if target_latency is None else (
        'target_latency', LATENCY, target_latency)
    share(option, target, f'it is what stays of the dense {name}, so it must lie between 0 and 1')
    options = {key: plain(given) for key, given in (('runtime', runtime), ('repair', repair)) if given is not None}
    return [*plain(base.get('custom_hooks') or []), *structure_hooks(),
            dict(type='mmprune.ResourceInfoHook', interval=log_interval, resource_type=name,
                 save_ckpt_thr=[target], early_stop=True, **options)]


@typed
def prune_settings(base: Mapping[str, Any], pretrained_path: str, interval: int, normalization_type: str,
                   lr_ratio: float, target_flop_ratio: Optional[float] = None,
                   input_shape: Optional[Sequence[int]] = None, mutate_linear: bool = False,
                   choice: Optional[Config] = None, target_latency: Optional[float] = None,
                   runtime: Optional[Config] = None, repair: Optional[Config] = None) -> Settings:
    """Return ``model, model_wrapper_cfg, optim_wrapper, custom_hooks`` of a prune config."""
    model = group_fisher_model(base, pretrained_path, interval, normalization_type, input_shape, mutate_linear, choice)
    hooks = prune_hooks(base, target_flop_ratio, target_latency=target_latency, runtime=runtime, repair=repair)
    return _settings(base, model, 'GroupFisherDDP', _lr(base, lr_ratio), hooks)


@typed
def prune_schedule(base: Mapping[str, Any], max_epochs: Optional[int] = None, max_iters: Optional[int] = None,
                   val_interval: Optional[int] = None) -> Tuple[List[Config], Config, Config]:
    """Return ``param_scheduler, train_cfg, dense_schedule`` of a prune config: a constant learning rate, and a limit.

    Args:
        base (dict): The config that the model was trained with.
        max_epochs (int): Epochs that the run may take; it ends at its target. For a base that counts iterations,
            ``max_iters``.
        max_iters (int): Iterations that it may take.
        val_interval (int, optional): Epochs or iterations between two validations; default: the base's.

    Returns:
        tuple[list, dict, dict]: The third is what the dense model was trained by, for :func:`finetune_schedule`.

    Raises:
        UserError: The limit is not a positive whole number, or counts other than the base's loop.
    """
    dense = dict(param_scheduler=plain(base.get('param_scheduler')), train_cfg=plain(base['train_cfg']))
    key, other = ('max_iters', 'max_epochs') if 'max_iters' in dense['train_cfg'] else ('max_epochs', 'max_iters')
    limits = dict(max_epochs=max_epochs, max_iters=max_iters)
    if limits[key] is None or limits[other] is not None:
        raise UserError(f'prune_schedule: the base config trains by {key}, so the prune config needs {key} and no '
                        f'{other}')
    whole_number(f'prune_schedule: {key}', limits[key])
    train_cfg = {name: value for name, value in dense['train_cfg'].items() if name != 'dynamic_intervals'}
    train_cfg.update({'_delete_': True, key: limits[key]})
    if val_interval is not None:
        train_cfg['val_interval'] = whole_number('prune_schedule: val_interval', val_interval)
    return [], train_cfg, dense


@typed
def finetune_schedule(base: Mapping[str, Any]) -> Schedule:
    """Return ``param_scheduler, train_cfg`` of a finetune config: what the dense model was trained by.

    Args:
        base (dict): The prune config.
    """
    dense = plain(base.get('dense_schedule') or base)
    schedulers = dense.get('param_scheduler') or []
    # a list always: a dict would be merged with the list of the prune config
    return ([schedulers] if isinstance(schedulers, dict) else schedulers), dict(dense['train_cfg'], _delete_=True)


@typed
def pruning_model(base: Mapping[str, Any], pretrained_path: Optional[str], input_shape: Optional[Sequence[int]] = None,
                  mutate_linear: bool = False, choice: Optional[Config] = None) -> Config:
    """Return the model of a prune config whose hooks prune by a criterion."""
    return _algorithm(base, pretrained_path, input_shape, choice, ('PruningAlgorithm', 'ChannelMutator', 'ChannelUnit'),
                      dict(mutate_linear=mutate_linear))


@typed
def schedule_settings(base: Mapping[str, Any], schedule: Union[Config, Sequence[Config]],
                      pretrained_path: Optional[str], input_shape: Optional[Sequence[int]] = None,
                      lr_ratio: float = 1.0, mutate_linear: bool = False, choice: Optional[Config] = None) -> Settings:
    """Return ``model, model_wrapper_cfg, optim_wrapper, custom_hooks`` of a prune config with a schedule."""
    model = pruning_model(base, pretrained_path, input_shape, mutate_linear, choice)
    schedules = [schedule] if isinstance(schedule, Mapping) else list(schedule)
    hooks = [*plain(base.get('custom_hooks') or []), *structure_hooks(interval=10), *plain(schedules)]
    return _settings(base, model, 'ShrinkingDDP', _lr(base, lr_ratio), hooks)


@typed
def finetune_settings(base: Mapping[str, Any], pruned_path: str, finetune_lr: float, divisor: int = 1) -> Settings:
    """Return ``model, model_wrapper_cfg, optim_wrapper, custom_hooks`` of a finetune config."""
    check_divisor(divisor)
    number('finetune_lr', finetune_lr, 0, 1000, 'it is a learning rate', above=True)
    _part(base, 'model', 'architecture', what='prune config')
    algorithm = plain(base['model'])
    algorithm['architecture'].pop('init_cfg', None)
    algorithm['init_cfg'] = dict(type='Pretrained', checkpoint=pruned_path)
    model = dict(_delete_=True, type='mmprune.GroupFisherSubModel', algorithm=algorithm, divisor=divisor)
    hooks = [hook for hook in plain(base.get('custom_hooks') or []) if not str(hook['type']).startswith(OWN_HOOKS)]
    model, wrapper, optim_wrapper, hooks = _settings(base, model, 'PortableDDP', finetune_lr,
                                                     [*hooks, *structure_hooks()])
    return model, dict(wrapper, _delete_=True), optim_wrapper, hooks


@typed
def distilled_model(base: Mapping[str, Any], teacher_path: str, distill_loss: Optional[Config] = None,
                    outputs: Union[str, Sequence[str]] = 'head.fc') -> Config:
    """Return the model of a finetune config with a dense teacher.

    Args:
        base (dict): The finetune config.
        teacher_path (str): Checkpoint of the dense model.
        distill_loss (dict): Defaults to the DIST loss.
        outputs (str or list[str]): Modules whose outputs are compared.
    """
    _part(base, 'model', 'algorithm', 'architecture', what='finetune config')
    student = plain(base['model'])
    student.pop('_delete_', None)
    teacher = plain(student['algorithm']['architecture'])
    teacher['init_cfg'] = dict(type='Pretrained', checkpoint=teacher_path)
    return dict(_delete_=True, type='mmprune.DistilledSubModel', student=student, teacher=teacher,
                distill_loss=distill_loss or dict(type='mmprune.DISTLoss'), outputs=plain(outputs))


@typed
def transferred_model(base: Mapping[str, Any], fix_subnet: Union[Mapping[str, int], str], checkpoint: str,
                      part: str = 'backbone', input_shape: Optional[Sequence[int]] = None,
                      mutate_linear: bool = False) -> Config:
    """Return a model one part of which was pruned in another model, to be trained.

    ``base``, ``input_shape`` and ``part`` (a name) are of the model that gets the part; ``fix_subnet`` and
    ``checkpoint`` of the one in which only that part was pruned.
    """
    architecture = architecture_of(base)
    architecture.pop('init_cfg', None)
    return dict(_delete_=True, type='mmprune.TransferredSubModel', architecture=architecture,
                fix_subnet=read_structure(fix_subnet), checkpoint=checkpoint, part=part, mutate_linear=mutate_linear,
                demo_input=demo_input_of(architecture, shape_or_test_input(input_shape, base)))


@typed
def deploy_model(base: Mapping[str, Any], fix_subnet: Union[Mapping[str, int], str], divisor: int = 1,
                 input_shape: Optional[Sequence[int]] = None, mutate_linear: bool = False,
                 choice: Optional[Config] = None) -> Config:
    """Return the model of a deploy config; ``mutate_linear`` and ``choice`` are those of the prune config."""
    load_plugins()
    check_divisor(divisor)
    check_choice(choice or {})
    architecture = architecture_of(base)
    architecture.pop('init_cfg', None)
    return dict(_delete_=True, type='mmprune.GroupFisherDeploySubModel', architecture=architecture,
                fix_subnet=read_structure(fix_subnet), divisor=divisor, mutate_linear=mutate_linear,
                demo_input=demo_input_of(architecture, shape_or_test_input(input_shape, base)),
                **{key: value for key, value in plain(choice or {}).items() if key != 'min_channels'})
