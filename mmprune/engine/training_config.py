"""The config of a command that trains or tests: its options merged in, what it leaves open set, its mistakes told."""
import argparse
import os
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Mapping

import torch
from mmengine.config import Config

from ..arguments import short
from ..command_line import add_config_options, whole
from ..models.from_config import ConfigError, check_model, merge, read_config
from ..units.structure import StructureError
from .processes import let_forks_die_with_this

#: Arguments at the top of a config -> the key that they end up in.
ARGUMENTS = {
    'pretrained_path': 'model.architecture.init_cfg.checkpoint', 'interval': 'model.interval',
    'normalization_type': 'model.mutator.channel_unit_cfg.normalization_type', 'lr_ratio': 'optim_wrapper.optimizer.lr',
    'target_flop_ratio': 'save_ckpt_thr of mmprune.ResourceInfoHook in custom_hooks',
    'target_latency': 'save_ckpt_thr of mmprune.ResourceInfoHook in custom_hooks',
    'runtime': 'runtime of the hook in custom_hooks that has the target',
    'input_shape': 'model.mutator.demo_input.input_shape', 'pruned_path': 'model.algorithm.init_cfg.checkpoint',
    'finetune_lr': 'optim_wrapper.optimizer.lr', 'teacher_path': 'model.teacher.init_cfg.checkpoint',
    'fix_subnet': 'model.fix_subnet', 'divisor': 'model.divisor',
    'max_epochs': 'train_cfg.max_epochs', 'max_iters': 'train_cfg.max_iters',
    'mutate_linear': 'mutate_linear of model (model.mutator.channel_unit_cfg)',
    **dict.fromkeys(('ratio', 'flops', 'levels', 'max_pruned_ratio'), 'target of the schedule in custom_hooks'),
    **dict.fromkeys(('layer_begin', 'layer_end', 'layer_inter'),
                    'begin, end and step of the layers of the schedule in custom_hooks'),
    **dict.fromkeys(('rate_norm', 'rate_dist', 'layers', 'epoch_prune', 'rounds', 'epochs_between', 'batches', 'source',
                     's'), 'the argument of the schedule in custom_hooks')}
#: The environment variable by which some of the configs find their data.
DATA_VARIABLE = 'MMPRUNE_DATA'
CLASSIFICATION = ('mmcls', 'mmpretrain')


def add_runner_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing share."""
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/<config name>)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=whole(0, 1023), default=0, help=argparse.SUPPRESS)
    add_config_options(parser)


def runner_config(args: argparse.Namespace) -> Config:
    """Return the config with the shared options merged in."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config)
    check_model(cfg, args.config)
    _refuse_arguments(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    merge(cfg, args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', os.path.splitext(os.path.basename(args.config))[0])
    complete_loaders(cfg)
    check_dict('default_hooks', cfg.get('default_hooks'))
    checkpoints = cfg.setdefault('default_hooks', {}).setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
    if checkpoints.get('type') == 'CheckpointHook':
        checkpoints['type'] = 'mmprune.WholeCheckpointHook'
    if cfg.get('model_wrapper_cfg') is None and not torch.cuda.is_available():
        cfg.model_wrapper_cfg = dict(type='mmprune.PortableDDP')
    return cfg


def complete_loaders(cfg: Config) -> None:
    """Set what the data loaders of a config leave open, in place; their workers end with this process.

    Raises:
        ConfigError: One of them is no dict.
    """
    let_forks_die_with_this()
    for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(field)
        check_dict(field, loader)
        if loader is not None:
            loader.setdefault('pin_memory', torch.cuda.is_available())
            loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)
            if cfg.get('default_scope') in CLASSIFICATION:
                loader.setdefault('collate_fn', dict(type='default_collate'))


def check_dict(key: str, value: Any) -> None:
    """Raise ConfigError for a part of a config that is neither a dict nor None."""
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f'{key} of the config is {short(value)}; it must be a dict')


def _refuse_arguments(cfg: Config, options: Dict[str, Any]) -> None:
    """Raise StructureError for options that would change nothing: arguments that the config has used already."""
    for key in options:
        if key in ARGUMENTS and str(cfg.model.get('type', '')).startswith('mmprune.'):
            raise StructureError(f'--cfg-options {key}=... would change nothing: the config computes its model from '
                                 f'{key} while it is read. Set {ARGUMENTS[key]} instead, or edit the config')


@contextmanager
def data_named(cfg: Config) -> Iterator[None]:
    """Let a file that is missing name MMPRUNE_DATA, if the config reads its data from there.

    Args:
        cfg (Config): Of the run inside the block.
    """
    try:
        yield
    except (FileNotFoundError, AssertionError) as error:
        if isinstance(error, AssertionError) and 'does not exist' not in str(error):  # what mmpose says
            raise
        if DATA_VARIABLE not in cfg.text:
            raise FileNotFoundError(str(error)) from error
        folder = os.environ.get(DATA_VARIABLE)
        now = f'is {folder!r}' if folder else "is not set, so it is 'data'"
        raise FileNotFoundError(f'{error}. The config reads its data from the folder that the environment variable '
                                f'{DATA_VARIABLE} names; it {now}') from error
