"""Models and mutators from config files, whatever stage of the journey the config is for."""
import traceback
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope

from ..arguments import UserError
from ..config import architecture_of, plain
from ..graph.detector_inputs import demo_input_of
from ..graph.input_shape import shape_or_test_input
from ..registry import MODELS, SCOPE, build
from ..units.mutator import ChannelMutator, NoPrunableUnitError
from ..units.structure import read_structure
from .architecture import build_architecture, prepare

SUFFIXES = ('.py', '.json', '.yaml', '.yml')
#: What the code of a config may raise.
ERRORS = (SyntaxError, NameError, AttributeError, LookupError, TypeError, ValueError, ArithmeticError, AssertionError)


class ConfigError(UserError):
    """A config cannot be read, or is none that can be used here."""


def dense_config(cfg: Mapping[str, Any]) -> Tuple[dict, Optional[dict], Optional[Mapping[str, int]]]:
    """Find the dense model in a pretrain, prune, finetune or deploy config.

    Args:
        cfg (Config): Any of them.

    Returns:
        tuple: Config of the dense architecture without weights, config of the mutator (None in a pretrain config), and
        the structure that a deploy config names (else None).
    """
    model = plain(cfg['model'])
    kind = str(model.get('type', '')).rpartition('.')[2]
    if kind == 'DistilledSubModel':
        model, kind = model['student'], 'GroupFisherSubModel'
    if kind == 'GroupFisherSubModel':
        model = model['algorithm']
        kind = str(model.get('type', '')).rpartition('.')[2]
    mutator, structure = None, None
    if kind in ('GroupFisherAlgorithm', 'PruningAlgorithm'):
        mutator = model.get('mutator')
        architecture = model['architecture']
    elif kind == 'GroupFisherDeploySubModel':
        structure = read_structure(model['fix_subnet'])
        unit = dict(type='mmprune.ChannelUnit', mutate_linear=model.get('mutate_linear', False))
        mutator = dict(type='mmprune.ChannelMutator', channel_unit_cfg=unit, demo_input=model.get('demo_input'),
                       include=model.get('include'), exclude=model.get('exclude'))
        architecture = model['architecture']
    else:
        architecture = architecture_of(cfg)
    architecture.pop('init_cfg', None)
    return architecture, mutator, structure


def read_config(path: str) -> Config:
    """Read a config file, or one of an installed package: ``mmcls::resnet/resnet50_8xb32_in1k.py``.

    Args:
        path (str): Path of the file, or package and path below its configs.

    Raises:
        FileNotFoundError: There is no such file.
        ConfigError: It is no config, or an error arises in it; the message says at which line.
    """
    try:
        return _read(path)
    except ERRORS as error:
        if isinstance(error, UserError):
            raise
        code = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == '<module>']
        where = f', at line {code[-1].lineno} of {code[-1].filename or "it or a base"}' if code else ''
        text = ' '.join(str(error).split())
        raise ConfigError(f'config {path!r} cannot be read{where}: {type(error).__name__}: {text}') from error


def _read(path: str) -> Config:
    if '::' not in path:
        if Path(path).is_dir():
            raise ConfigError(f'config {path!r} is a folder')
        if Path(path).is_file() and Path(path).suffix not in SUFFIXES:
            raise ConfigError(f'config {path!r} is no config: its suffix is none of {", ".join(SUFFIXES)}')
        cfg = Config.fromfile(path)
        if f'{SCOPE}::' in cfg.text:
            _leave_default_scope(cfg._cfg_dict)
        return cfg
    if '/' not in path.partition('::')[2]:
        raise FileNotFoundError(f'config {path!r}: it must name a folder too, as mmcls::resnet/resnet50_8xb32_in1k.py')
    try:
        return get_config(path)
    except (ImportError, AssertionError) as error:  # mmengine asserts that it knows the package
        raise FileNotFoundError(f'config {path!r}: {error}') from None


def merge(cfg: Config, options: Optional[dict]) -> None:
    """Change a config by ``--cfg-options``.

    Raises:
        ConfigError: A key leads through something that is no dict, or past the end of a list.
    """
    try:
        cfg.merge_from_dict(options or {})
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f'--cfg-options: {" ".join(str(error).split())}') from None


def check_model(cfg: Mapping[str, Any], path: str) -> None:
    """Raise ConfigError unless a config has a model."""
    if not isinstance(cfg.get('model'), Mapping):
        raise ConfigError(f'config {path!r} has no model')


def _leave_default_scope(value: Any) -> None:
    """Take our scope off what comes from a base such as ``mmprune::mmcls/...``.

    mmengine gives every dict of such a base the scope of its package: right for mmcls, whose configs say ``ResNet``.
    Ours name our types in full, and others belong to their ``default_scope``.

    Args:
        value (Any): A config; changed in place.
    """
    if isinstance(value, dict):
        if value.get('_scope_') == SCOPE:
            del value['_scope_']
        for item in value.values():
            _leave_default_scope(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _leave_default_scope(item)


def mutator_from_config(path: str, input_shape: Optional[Sequence[int]] = None,
                        cfg_options: Optional[dict] = None, mutate_linear: bool = False,
                        may_be_whole: bool = False) -> Tuple[ChannelMutator, Optional[Mapping[str, int]]]:
    """Build the dense model of a config and prepare a mutator on it.

    Args:
        path (str): A pretrain, prune, finetune or deploy config.
        input_shape (tuple[int], optional): Input that is traced, batch first; defaults to the config's, else to that
            of :func:`~mmprune.graph.input_shape.input_of_test`.
        cfg_options (dict, optional): Changes to the config.
        mutate_linear (bool): Prune what linear layers read and produce, whatever the config says.
        may_be_whole (bool): Return the mutator even if no unit may be pruned.

    Returns:
        tuple[ChannelMutator, dict or None]: The mutator, prepared; the structure that a deploy config names.
    """
    cfg = read_config(path)
    merge(cfg, cfg_options)
    check_model(cfg, path)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    architecture, mutator_cfg, structure = dense_config(cfg)
    mutator_cfg = mutator_cfg or dict(type='GroupFisherChannelMutator')
    shape = input_shape or cfg.get('input_shape')
    if shape is not None or not mutator_cfg.get('demo_input'):
        mutator_cfg['demo_input'] = demo_input_of(architecture, shape_or_test_input(shape, cfg))
    if mutate_linear:
        default = dict(type='GroupFisherChannelUnit' if 'GroupFisher' in str(mutator_cfg['type']) else 'ChannelUnit')
        mutator_cfg['channel_unit_cfg'] = dict(mutator_cfg.get('channel_unit_cfg') or default, mutate_linear=True)
    model, _ = build_architecture(architecture, None)
    mutator: ChannelMutator = build(MODELS, mutator_cfg)
    try:
        prepare(mutator, model, structure or ())
    except NoPrunableUnitError:
        if not may_be_whole:
            raise
    return mutator, structure
