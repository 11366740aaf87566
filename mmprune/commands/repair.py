"""Repair a pruned checkpoint without training: its layers are solved again, in closed form, from training images.

mmprune repair CONFIG PRUNED.pth --dense DENSE.pth
python tools/pruning/repair.py CONFIG PRUNED.pth --dense DENSE.pth --images 64 --how bias --no-test
python tools/pruning/repair.py FINETUNE_CONFIG epoch_10.pth --dense DENSE.pth --out repaired.pth --device cuda

CONFIG is the finetune or prune config of PRUNED.pth, a checkpoint of a prune run, such as flops_0.50.pth; for one that
was finetuned it is its finetune config. DENSE.pth is what the prune run started from. Images come from the config's
train_dataloader, by its pipeline; labels are not used. What is written has the format of PRUNED.pth: the finetune, test
and deploy configs take it as before. The dense, the cut and the repaired network are evaluated by the config.
"""
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from ..command_line import add_config_options, command_parser, device, whole
from ..engine.evaluation import Evaluation, evaluation_of
from ..engine.plain_checkpoint import plain_value
from ..engine.repair_images import repair_images
from ..engine.training_config import data_named, runner_config
from ..models.checkpoint import check_exists, save_whole
from ..models.twins import DENSE, PRUNED, read_twins
from ..repair.refit import HOWS, repair
from ..repair.result import Repair

MOST_IMAGES = 1_000_000
STAGES = ('dense', 'cut', 'repaired')


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = command_parser(__doc__, prog)
    parser.add_argument('config', help='finetune or prune config')
    parser.add_argument('pruned', help='checkpoint of a prune run, or a finetuned one')
    parser.add_argument('--dense', required=True, help='checkpoint that the prune run started from, file or URL')
    parser.add_argument('--images', type=whole(2, MOST_IMAGES), default=512,
                        help='training images, of which a fifth is held back (%(default)s)')
    parser.add_argument('--how', choices=HOWS, default=HOWS[0],
                        help='full: weights and offsets; bias: offsets only; norms: statistics of batch norms only '
                             '(default: %(default)s)')
    parser.add_argument('--out', help='the checkpoint to write (default: PRUNED_repaired.pth beside PRUNED.pth)')
    parser.add_argument('--device', type=device, default='cpu', help='where it is computed, such as cuda (cpu)')
    parser.add_argument('--no-test', action='store_true', help='do not evaluate the networks')
    add_config_options(parser)
    parser.set_defaults(work_dir=None, launcher='none', local_rank=0)
    args = parser.parse_args(argv)
    for path, role in ((args.pruned, PRUNED), (args.dense, DENSE)):
        check_exists(path, role)
    cfg = runner_config(args)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    with data_named(cfg):
        twins = read_twins(cfg, args.pruned, args.dense)
        models = twins.dense.to(args.device), twins.mutator.model.to(args.device)
        batches = repair_images(cfg, models[1], twins.mutator.demo_input, args.images, seed_of(cfg))
    evaluation = None if args.no_test else reachable(cfg)
    metrics = [] if evaluation is None else [measured(evaluation, *each) for each in zip(STAGES, models)]
    done = repair(twins.mutator, models[0], batches, args.how, may_add_bias=False, seed=seed_of(cfg))
    if evaluation is not None:
        metrics.append(measured(evaluation, STAGES[2], models[1]))
    out = args.out or beside(args.pruned)
    checkpoint = twins.checkpoint()
    save_whole(dict(checkpoint, meta=plain_value(checkpoint['meta'])), out)
    print('\n'.join(['', *done.notes(), *format_table(metrics, done), f'{out}: the repaired checkpoint']))


def seed_of(cfg: Mapping[str, Any]) -> int:
    """Return the seed of a config's run, 0 where it has none."""
    return int((cfg.get('randomness') or {}).get('seed') or 0)


def reachable(cfg: Config) -> Optional[Evaluation]:
    """Return the evaluation of a config; None, and why, where it has none or its data are not here."""
    try:
        with data_named(cfg):
            found = evaluation_of(cfg)
    except FileNotFoundError as error:
        print(f'not evaluated: {error}')
        return None
    if found is None:
        print('not evaluated: the config has no val_dataloader and val_evaluator, nor those of a test')
    return found


def measured(evaluation: Evaluation, name: str, model: nn.Module) -> Dict[str, float]:
    """Return the metrics of a model, after a line that says what is going on."""
    print(f'evaluating the {name} network on {evaluation.images} images', flush=True)
    return evaluation(model)


def beside(path: str) -> str:
    """Return where the repaired checkpoint lies by default; for a URL the present folder."""
    file = Path(path.rpartition('/')[2] if '://' in path else path)
    return str(file.with_name(f'{file.stem}_repaired.pth'))


def format_table(metrics: Sequence[Mapping[str, float]], done: Repair) -> List[str]:
    """Return a table with a column for each network: the metrics, and the error of the outputs on held-back images."""
    rows = {name: [each.get(name, float('nan')) for each in metrics] for name in (metrics[0] if metrics else {})}
    rows['output error'] = [0.0, done.before, done.after]
    width = max(map(len, rows))
    head = f'{"":<{width}}' + ''.join(f'{stage:>12}' for stage in STAGES)
    return [head, *(f'{name:<{width}}' + ''.join(f'{written(value):>12}' for value in values)
                    for name, values in rows.items())]


def written(value: float) -> str:
    """Return a number with four decimals, or four digits where it is large."""
    return f'{value:.4f}' if abs(value) < 10_000 else f'{value:.3e}'
