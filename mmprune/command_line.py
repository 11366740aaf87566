"""What the commands share: config options, training settings, json output, one-line errors."""
import argparse
import json
import os
import sys
import time
from typing import Any, Callable, Dict, Optional

import torch
from mmengine.config import Config, DictAction

from .arguments import UserError
from .files import write_text
from .models.from_config import read_config
from .units.structure import StructureError

#: Arguments at the top of a config -> the key that they end up in.
ARGUMENTS = {
    'pretrained_path': 'model.architecture.init_cfg.checkpoint', 'interval': 'model.interval',
    'normalization_type': 'model.mutator.channel_unit_cfg.normalization_type', 'lr_ratio': 'optim_wrapper.optimizer.lr',
    'target_flop_ratio': 'save_ckpt_thr of mmprune.ResourceInfoHook in custom_hooks',
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
CLASSIFICATION = ('mmcls', 'mmpretrain')


def command_parser(description: Optional[str], prog: Optional[str]) -> argparse.ArgumentParser:
    """Return the parser of a command.

    Args:
        description (str): The docstring of its module, printed as it stands.
        prog (str, optional): What it is called; default: the script that runs.
    """
    return argparse.ArgumentParser(prog=prog, description=description,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={},
                        help='changes to the config, key.subkey=value')


def add_runner_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing share."""
    parser.add_argument('--work-dir', help='where logs and checkpoints go (default: work_dirs/<config name>)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    add_config_options(parser)


def runner_config(args: argparse.Namespace) -> Config:
    """Return the config with the shared options merged in."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(args.config)
    _refuse_arguments(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    cfg.merge_from_dict(args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', os.path.splitext(os.path.basename(args.config))[0])
    for field in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(field)
        if loader is not None:
            loader.setdefault('pin_memory', torch.cuda.is_available())
            loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)
            if cfg.get('default_scope') in CLASSIFICATION:
                loader.setdefault('collate_fn', dict(type='default_collate'))
    checkpoints = cfg.setdefault('default_hooks', {}).setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
    if checkpoints.get('type') == 'CheckpointHook':
        checkpoints['type'] = 'mmprune.WholeCheckpointHook'
    if cfg.get('model_wrapper_cfg') is None and not torch.cuda.is_available():
        cfg.model_wrapper_cfg = dict(type='mmprune.PortableDDP')
    return cfg


def _refuse_arguments(cfg: Config, options: Dict[str, Any]) -> None:
    """Raise StructureError for options that would change nothing: arguments that the config has used already."""
    for key in options:
        if key in ARGUMENTS and str(cfg.model.get('type', '')).startswith('mmprune.'):
            raise StructureError(f'--cfg-options {key}=... would change nothing: the config computes its model from '
                                 f'{key} while it is read. Set {ARGUMENTS[key]} instead, or edit the config')


def emit_json(value: Dict[str, Any], target: str) -> None:
    """Write json to a file, or to stdout for ``-``."""
    text = json.dumps(value, indent=2) + '\n'
    if target == '-':
        sys.stdout.write(text)
    else:
        write_text(text, target)


def run(main: Callable[[], None]) -> None:
    """Run a command; a user's mistake ends it with one message and status 2 instead of a traceback."""
    try:
        main()
    except (UserError, FileNotFoundError) as error:
        sys.stderr.write(f'error: {error}\n')
        sys.exit(2)
    except (ConnectionError, EOFError):
        time.sleep(1)  # a data worker that died is told by a signal, whose handler raises the cause here
        raise
