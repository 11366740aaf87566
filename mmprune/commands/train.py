"""Train, prune or finetune from a config.

mmprune train CONFIG --work-dir W
python tools/train.py CONFIG --work-dir W
bash tools/dist_train.sh CONFIG 8 --work-dir W
"""
from pathlib import Path
from typing import Optional, Sequence

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from ..arguments import UserError
from ..command_line import command_parser
from ..engine.distributed import process_group
from ..engine.training_config import add_runner_options, data_named, runner_config
from ..models.checkpoint import check_exists, latest_checkpoint
from ..models.checkpoint_file import check_file


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = command_parser(__doc__, prog)
    parser.add_argument('config', help='train, prune or finetune config')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the batch size')
    parser.add_argument('--resume', nargs='?', const='auto', help='a checkpoint; without a value the latest one')
    add_runner_options(parser)
    args = parser.parse_args(argv)
    if args.resume not in (None, 'auto'):
        check_exists(args.resume, '--resume')
    cfg = runner_config(args)
    if args.amp:
        kind = cfg.optim_wrapper.get('type', 'OptimWrapper')
        if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
            parser.error(f'--amp cannot replace the optimizer wrapper {kind}')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'auto_scale_lr' not in cfg:
            parser.error('--auto-scale-lr needs auto_scale_lr = dict(base_batch_size=...) in the config')
        cfg.auto_scale_lr.enable = True
    if args.resume:
        _resume(cfg, args.resume)
    if cfg.get('load_from') and '://' not in str(cfg.load_from):  # mmengine reads it without looking at its checksums
        check_file(Path(cfg.load_from), '--resume' if args.resume else 'load_from')
    with process_group(args.launcher), data_named(cfg):
        missed = _train(cfg)
    if missed:
        raise UserError(missed)


def _resume(cfg: Config, path: str) -> None:
    """Let a run go on from a checkpoint; ``auto`` is the latest one of its work dir."""
    cfg.resume, cfg.load_from = True, latest_checkpoint(cfg.work_dir) if path == 'auto' else path
    if cfg.load_from and cfg.model.get('mutator'):  # the units of the checkpoint have passed the trial
        cfg.model.mutator.trial_cut = False
    print_log('resuming reads more than tensors (optimizer, message hub) with pickle, which can run code: use files '
              'you trust', logger='current')


def _train(cfg: Config) -> Optional[str]:
    """Return what a prune run says that ended above its target."""
    runner = Runner.from_cfg(cfg)
    runner.train()
    return next((hook.missed for hook in runner.hooks if getattr(hook, 'missed', None)), None)
