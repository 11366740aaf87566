"""What the command line tools share: config options, training settings, json output, one-line errors."""
import argparse
import json
import os
import sys
from typing import Any, Callable, Dict

import torch
from mmengine.config import Config, DictAction

from .checkpoint import CheckpointError
from .from_config import read_config
from .mutator import NoPrunableUnitError
from .structure import StructureError, write_text

#: Mistakes of a user: the message is all that he needs.
USER_ERRORS = (CheckpointError, StructureError, NoPrunableUnitError, FileNotFoundError)
CLASSIFICATION = ('mmcls', 'mmpretrain')


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
    if cfg.get('model_wrapper_cfg') is None and not torch.cuda.is_available():
        cfg.model_wrapper_cfg = dict(type='mmprune.PortableDDP')
    return cfg


def emit_json(value: Dict[str, Any], target: str) -> None:
    """Write json to a file, or to stdout for ``-``."""
    text = json.dumps(value, indent=2) + '\n'
    if target == '-':
        sys.stdout.write(text)
    else:
        write_text(text, target)


def run(main: Callable[[], None]) -> None:
    """Run a tool; a user's mistake ends it with one message and status 2 instead of a traceback."""
    try:
        main()
    except USER_ERRORS as error:
        sys.stderr.write(f'error: {error}\n')
        sys.exit(2)
