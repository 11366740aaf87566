"""Compress a trained model, from its checkpoint to a faster file: prune, repair, finetune, test, deploy, quantise.

mmprune compress CONFIG CHECKPOINT --target latency=0.5
mmprune compress CONFIG CHECKPOINT --target flops=0.5 --finetune 0.3 --work-dir W --dry-run
mmprune compress CONFIG CHECKPOINT --curve
mmprune compress CONFIG CHECKPOINT --max-drop 1.0
python tools/compress.py CONFIG CHECKPOINT --target latency_ms=12 --threads 2

CONFIG is what the model was trained with. Every stage is a command of mmprune with configs that are written to the work
dir, where they can be changed and run by hand; a stage that is done is not done again, one that was interrupted goes
on. `--curve` measures accuracy against milliseconds in some minutes, repaired and not trained, and `--max-drop` takes
the fastest point of it that loses at most so many points. At the end there is a report: report.html.
"""
import argparse
from pathlib import Path
from typing import Dict, Optional, Sequence

from mmengine.config import Config

from ..arguments import UserError, number
from ..command_line import add_config_options, add_shape_option, command_parser, points, threads, whole
from ..criteria.criterion import make_criterion
from ..deploy.image import existing_image
from ..engine.compress.configs import RoadConfigs
from ..engine.compress.curve import format_curve, point_within, run_curve
from ..engine.compress.estimate import estimate, spoken
from ..engine.compress.options import METHODS, CompressOptions, parse_target
from ..engine.compress.plan import plan_of, remembered
from ..engine.compress.road import Road
from ..engine.compress.stages import Stages
from ..engine.compress.summary import Summary, format_end
from ..engine.compress.survey import Survey, surveyed
from ..engine.headline import headline
from ..engine.training_config import data_named
from ..graph.input_shape import shape_or_test_input
from ..models.checkpoint import check_exists
from ..models.from_config import check_model, merge, read_config
from ..report.stage_record import StageRecord, write_plan

#: When linear layers are pruned; by itself, where they do more than this part of the multiply-adds.
LINEAR, LINEAR_PART = ('auto', 'always', 'never'), 0.25


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    args = parse(argv, prog)
    target = checked_target(args)
    check_exists(args.checkpoint)
    if args.image is not None:
        existing_image(args.image)
    if args.deploy_cfg is not None:
        read_config(args.deploy_cfg)
    cfg = read_config(args.config)
    merge(cfg, args.cfg_options)
    check_model(cfg, args.config)
    folder = Path(args.work_dir or Path('work_dirs') / 'compress' / Path(args.config.partition('::')[2] or
                                                                         args.config).stem)
    shape = shape_or_test_input(args.input_shape, cfg)
    with data_named(cfg):
        known = surveyed(cfg, shape, None if args.dry_run else folder)
    options = options_of(args, target, folder, shape, known)
    if args.dry_run:
        show(options, known, cfg)
        return
    road = Road(folder, lambda line: print(line, flush=True))
    with road.alone():
        walk(road, options, known, cfg, args)


def parse(argv: Optional[Sequence[str]], prog: Optional[str]) -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = command_parser(__doc__, prog)
    parser.add_argument('config', help='config that the model was trained with')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument('--target', nargs='+', default=[], metavar='NAME=VALUE',
                        help='latency=SHARE of the dense time that stays, latency_ms=MILLISECONDS, flops=, params= or '
                             'acts=SHARE; a time with bounds on the others')
    parser.add_argument('--max-drop', type=points, metavar='POINTS',
                        help='instead of a target: the fastest point of the curve that loses at most so much')
    parser.add_argument('--curve', action='store_true', help='measure the curve; without a target, end there')
    parser.add_argument('--method', choices=METHODS, default=METHODS[0],
                        help='cut and repair in rounds, or group Fisher while training (default: %(default)s)')
    parser.add_argument('--criterion', default='GroupFisher', help='of one-shot pruning (%(default)s)')
    parser.add_argument('--images', type=whole(2, 10_000), default=512, help='training images of a repair (512)')
    parser.add_argument('--finetune', type=float, default=1.0, metavar='PART',
                        help='length of the finetuning in trainings of the base config; 0 for none (1)')
    parser.add_argument('--lr-ratio', type=float, default=0.5,
                        help='learning rate of the finetuning in that of the base config (0.5)')
    parser.add_argument('--threads', type=threads, default=1, help='threads of onnxruntime (1)')
    parser.add_argument('--linear', choices=LINEAR, default=LINEAR[0],
                        help='prune what linear layers read and produce: where they do more than a quarter of the '
                             'multiply-adds, as in transformers (auto), always or never')
    parser.add_argument('--deploy-cfg', help="mmdeploy's config (default: that of the model's code base)")
    parser.add_argument('--image', help='image that the deployed file is checked with (the first test image)')
    parser.add_argument('--metric', help='by which networks are compared (top-1, mAP, AP, mIoU)')
    parser.add_argument('--no-int8', action='store_true', help='do not quantise')
    parser.add_argument('--int8-drop', type=points, default=1.0, metavar='POINTS',
                        help='points that the INT8 file may lose (1)')
    parser.add_argument('--work-dir', help='where everything goes (default: work_dirs/compress/<config name>)')
    parser.add_argument('--dry-run', action='store_true', help='print the stages and about how long they take')
    add_shape_option(parser)
    add_config_options(parser)
    return parser.parse_args(argv)


def checked_target(args: argparse.Namespace) -> Dict[str, float]:
    """Return the target, after numbers and names are looked at, before anything is read.

    Raises:
        UserError: Nothing says how far to go, or two things do; a number or a criterion is wrong.
    """
    target = parse_target(args.target)
    if not target and args.max_drop is None and not args.curve:
        raise UserError('nothing says how far: give --target latency=0.5 (share of the time that stays), flops=, '
                        'params= or latency_ms=, or --max-drop POINTS, or look at the --curve first')
    number('--finetune', args.finetune, 0, 100)
    number('--lr-ratio', args.lr_ratio, 0, 1000, above=True)
    if target and args.max_drop is not None:
        raise UserError('--target and --max-drop are given: the one says how far, the other lets the curve say it')
    make_criterion(args.criterion)
    return target


def options_of(args: argparse.Namespace, target: Dict[str, float], folder: Path, shape: Sequence[int],
               known: Survey) -> CompressOptions:
    """Return what was asked for."""
    if args.image is None and known.image is None:
        raise UserError('the test images of the config are no files: name one by --image, with which the deployed file '
                        'is checked')
    return CompressOptions(
        args.config, args.checkpoint, folder, target, tuple(shape), existing_image(args.image or known.image),
        args.deploy_cfg, args.method, args.criterion, args.images, args.finetune, args.lr_ratio, args.threads,
        args.metric, args.int8_drop, not args.no_int8,
        known.linear_share > LINEAR_PART if args.linear == 'auto' else args.linear == 'always')


def show(options: CompressOptions, known: Survey, cfg: Config) -> None:
    """Print the stages and about how long they take."""
    seconds = estimate(options, known, cfg)
    target = ', '.join(f'{name} {value:g}' for name, value in options.target.items()) or 'as the curve says'
    print(f'{options.config} to {target}, in {options.folder}; input {" x ".join(map(str, options.input_shape))}, '
          f'{known.train_images:,} training and {known.test_images:,} test images')
    for stage in Stages(options, RoadConfigs(cfg, options, known)).all():
        print(f'  {stage.name:<14}{stage.what:<34}about {spoken(seconds[stage.name])}')
    print(f'  {"":<14}{"in all":<34}about {spoken(sum(seconds.values()))} on this machine')


def walk(road: Road, options: CompressOptions, known: Survey, cfg: Config, args: argparse.Namespace) -> None:
    """Run the stages, then write the report."""
    if args.curve or args.max_drop is not None:
        points = run_curve(road, RoadConfigs(cfg, options, known))
        metric = headline(points[0]['metrics'], cfg, options.metric)
        print(format_curve(points, metric))
        if args.max_drop is not None:
            chosen = point_within(points, metric, args.max_drop)
            options = options.to({'latency': chosen['asked']})
            print(f'target: {chosen["asked"]:.0%} of the time')
        elif not options.target:
            print('choose a point: mmprune compress ... --target latency=SHARE')
            return
    plan = plan_of(options, args.cfg_options)
    remembered(plan, road.folder)
    stages = Stages(options, RoadConfigs(cfg, options, known)).all()
    summary = Summary()

    def words(record: StageRecord) -> str:
        if record.stage == 'dense':  # says by what all are compared
            plan.metric = headline(record.result['metrics'], cfg, options.metric)
            write_plan(plan, road.folder)
            summary.take(plan.metric, record.result['metrics'])
        return summary(record)

    records = [road.run(stage, words, f'{number_of}/{len(stages)}') for number_of, stage in enumerate(stages, 1)]
    road.command(['report', str(road.folder)], 'report')
    print(format_end(records, plan.metric))
    print(f'{road.folder / "report.html"}: the report')
