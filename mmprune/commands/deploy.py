"""Deploy a model to onnxruntime through mmdeploy, check the file against PyTorch on an image, and time both.

mmprune deploy configs/deploy/classification_onnxruntime_static.py MODEL_CFG CKPT IMAGE --work-dir DIR
python tools/deploy.py configs/deploy/classification_onnxruntime_static.py MODEL_CFG CKPT IMAGE --work-dir DIR
python tools/deploy.py configs/deploy/detection_onnxruntime_dynamic.py MODEL_CFG CKPT IMAGE --work-dir DIR
python tools/deploy.py configs/deploy/pose-detection_simcc_onnxruntime_dynamic.py MODEL_CFG CKPT IMAGE --work-dir DIR
python tools/deploy.py configs/deploy/segmentation_onnxruntime_dynamic.py MODEL_CFG CKPT IMAGE --work-dir DIR
mmprune deploy DEPLOY_CFG MODEL_CFG CKPT IMAGE --work-dir DIR --json DIR/deploy.json
mmprune deploy DEPLOY_CFG MODEL_CFG CKPT IMAGE --work-dir DIR --int8 --int8-images 128 --max-drop 1

The last is for segmentors of mmseg; the scores that every pixel gets are compared.

MODEL_CFG is a deploy config of a pruned model or the config of a dense one, of mmcls, mmpretrain, mmdet or mmpose. The
same files work with mmdeploy's own tools/deploy.py. Logits, boxes after the NMS or keypoints are compared; a detector
must find something in IMAGE. A pruned network is timed beside the dense one, without its post-processing, except in
detectors of two stages. `--exporter dynamo` exports a classifier by torch's new exporter, without mmdeploy.

`--json` writes the file, its difference from PyTorch and the times; then the dense network that was timed stays beside
the file as `dense.onnx`, and the pruned one as `pruned.onnx` where the file itself has post-processing.

`--int8` writes `end2end_int8.onnx` and `int8.json`, too: ranges from training images through the pipeline of the test,
what decodes in float, and layers in float until no more than --max-drop points of the config's metric are lost. Printed
are the accuracy of both files, and the times of dense and pruned in float and in INT8.
"""
import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Sequence

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor

from ..arguments import UserError
from ..command_line import add_require_faster, command_parser, device, emit_json, points, rounds, threads, whole
from ..deploy import prediction
from ..deploy.beside_dense import beside_dense, check_comparable, is_pruned, require_faster
from ..deploy.comparison import compare, format_comparison
from ..deploy.image import existing_image, image_input
from ..deploy.load import load_model
from ..deploy.onnx_export import EXPORTERS, DeployOutput, export_onnx
from ..deploy.quantization import FORMATS, LEAST_OPSET
from ..deploy.runtimes.onnx_runtime import OnnxRuntime
from ..deploy.segmentation import compare_segmentor
from ..deploy.timing import Timing
from ..engine.int8 import Int8Deployment, Int8Options
from ..engine.training_config import complete_loaders, data_named
from ..files import write_json
from ..graph.detector_inputs import has_two_stages
from ..models.checkpoint import check_exists
from ..models.from_config import check_model, dense_config, read_config
from ..registry import load_plugins

try:
    from mmdeploy.apis import build_task_processor, torch2onnx
    MISSING = None
except ImportError as error:
    MISSING = (f'error: tools/deploy.py needs mmdeploy, which cannot be imported ({error}): '
               'bash tools/setup_env.sh full in a checkout installs it; tools/export_onnx.py exports without it')

#: Training images from which the ranges of INT8 may come.
MOST_IMAGES = 1_000_000
TASKS = ('Classification', 'ObjectDetection', 'PoseDetection', 'Segmentation')


class Deployed(NamedTuple):
    """A file that agrees with PyTorch."""

    path: Path
    difference: float  # largest relative one
    timing: Timing  # of PyTorch and the file
    network: Any  # what is timed beside the dense model: the file, or a model whose network alone is exported for it
    x: Tensor  # the input

    def network_file(self, folder: Path) -> Path:
        """Return the file of what is timed beside the dense model, which a timing leaves in a folder."""
        return self.path if self.network == self.path else folder / 'pruned.onnx'


def export(deploy_cfg: Config, model_cfg: Config, args: argparse.Namespace) -> Path:
    """Let mmdeploy write the ONNX file; return its path."""
    name = deploy_cfg.onnx_config.save_file
    torch2onnx(args.image, args.work_dir, name, deploy_cfg, model_cfg, args.checkpoint, args.device)
    return Path(args.work_dir) / name


def deploy_classifier(deploy_cfg: Config, model_cfg: Config, args: argparse.Namespace) -> Deployed:
    """Export a classifier; time it."""
    # the strict loader goes first: mmdeploy's merely logs what does not fit
    model = load_model(model_cfg, args.checkpoint)
    x = image_input(model_cfg, model, args.image)
    path = export(deploy_cfg, model_cfg, args)
    return Deployed(path, *compare(path, DeployOutput(model).eval(), x, args.threads, args.rounds), path, x)


def deploy_by_dynamo(deploy_cfg: Config, model_cfg: Config, args: argparse.Namespace) -> Deployed:
    """Export a classifier by torch's new exporter; return what :func:`deploy_classifier` returns."""
    model = load_model(model_cfg, args.checkpoint)
    x = image_input(model_cfg, model, args.image)
    onnx_cfg = deploy_cfg.onnx_config
    fixed = onnx_cfg.get('input_shape')  # width, height
    if fixed and tuple(fixed[::-1]) != tuple(x.shape[2:]):
        raise UserError(f'{args.deploy_cfg} is for images of {fixed[0]} x {fixed[1]}, the test pipeline of '
                        f'{args.model_cfg} gives {x.size(3)} x {x.size(2)}: set onnx_config.input_shape, or take a '
                        'dynamic deploy config')
    axes = onnx_cfg.get('dynamic_axes') or {}
    path = Path(args.work_dir) / onnx_cfg.save_file
    path.parent.mkdir(parents=True, exist_ok=True)
    wrapped = export_onnx(model, x, path, [int(dim) for dim in axes.get(onnx_cfg.input_names[0], ())], 'dynamo')
    return Deployed(path, *compare(path, wrapped, x, args.threads, args.rounds), path, x)


def deploy_detector(deploy_cfg: Config, model_cfg: Config, args: argparse.Namespace) -> Deployed:
    """Export a detector or a pose estimator; time it."""
    task = build_task_processor(model_cfg, deploy_cfg, args.device)
    model = load_model(task.whole_cfg, args.checkpoint)
    path = export(deploy_cfg, model_cfg, args)
    inputs = prediction.image_inputs(task, model, args.image)
    agreement, timing = prediction.compare(task, model, path, inputs, args.threads, args.rounds)
    print(prediction.summary(agreement))
    return Deployed(path, agreement.difference, timing, model, inputs.x)


def deploy_segmentor(deploy_cfg: Config, model_cfg: Config, args: argparse.Namespace) -> Deployed:
    """Export a segmentor; time it."""
    task = build_task_processor(model_cfg, deploy_cfg, args.device)
    model = load_model(task.whole_cfg, args.checkpoint)
    if not hasattr(model, 'encode_decode'):
        raise UserError(f'{args.deploy_cfg} is for segmentors of mmseg; the model of {args.model_cfg} is '
                        f'{type(model).__name__}')
    path = export(deploy_cfg, model_cfg, args)
    x = prediction.image_inputs(task, model, args.image).x
    if model.test_cfg.get('mode') == 'slide':
        print("test_cfg.mode is 'slide': the file, and what it is compared with, see the whole image at once instead")
    segmented, timing = compare_segmentor(path, model, x, args.threads, args.rounds)
    print(f'{segmented.matched} of {segmented.total} pixels get the same class')
    return Deployed(path, segmented.difference, timing, model, x)


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = _parser(prog)
    args = parser.parse_args(argv)
    if MISSING and args.exporter != 'dynamo':
        sys.exit(MISSING)
    check_exists(args.checkpoint)
    existing_image(args.image)
    torch.set_num_threads(args.threads)
    deploy_cfg, model_cfg = read_config(args.deploy_cfg), read_config(args.model_cfg)
    check_model(model_cfg, args.model_cfg)
    check_comparable(args.require_faster, model_cfg, args.model_cfg)
    has_regions = has_two_stages(dense_config(model_cfg)[0])
    if has_regions and args.require_faster:
        parser.error(f'--require-faster: {args.model_cfg} is a detector of two stages, whose network cannot be timed '
                     'without what it finds')
    compared = is_pruned(model_cfg) and not has_regions
    name, backend = ((deploy_cfg.get(part) or {}).get(key) for part, key in (
        ('codebase_config', 'task'), ('backend_config', 'type')))
    if name not in TASKS or backend != 'onnxruntime':
        parser.error(f'{args.deploy_cfg} is for {name} on {backend}; this tool knows {", ".join(TASKS)} on onnxruntime')
    if args.int8:
        deploy_cfg.onnx_config.opset_version = max(deploy_cfg.onnx_config.get('opset_version', 0), LEAST_OPSET)
    if args.exporter == 'dynamo':
        _check_dynamo(parser, args, str(name))
        deploy = deploy_by_dynamo
    else:
        load_plugins()
        deploy = dict(Classification=deploy_classifier, Segmentation=deploy_segmentor).get(name, deploy_detector)
    deployed = deploy(deploy_cfg, model_cfg, args)
    print(format_comparison(deployed.path, deployed.difference, deployed.timing))
    record: Dict[str, Any] = dict(file=str(deployed.path), config=args.model_cfg, difference=deployed.difference)
    if compared:
        record.update(timed_beside_dense(model_cfg, deployed, args))
    if args.json:
        emit_json(record, args.json)
    if args.int8:
        write_int8(deploy_cfg, model_cfg, deployed, compared, args)


def _parser(prog: Optional[str]) -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = command_parser(__doc__, prog)
    parser.add_argument('deploy_cfg', help='such as configs/deploy/classification_onnxruntime_static.py')
    parser.add_argument('model_cfg', help='config of the model')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('image', help='image for the export and the check')
    parser.add_argument('--work-dir', required=True, help='where the ONNX file goes')
    parser.add_argument('--device', default='cpu', type=device, help='device that the model is exported on (cpu)')
    parser.add_argument('--threads', type=threads, default=1, help='threads of PyTorch and onnxruntime (1)')
    parser.add_argument('--rounds', type=rounds, default=30, help='timed runs of each (30)')
    add_require_faster(parser)
    parser.add_argument('--exporter', choices=EXPORTERS, default=EXPORTERS[0],
                        help="torch's exporter (default: %(default)s, by mmdeploy); dynamo for classifiers only")
    parser.add_argument('--json', help='write file, difference and times to a file, or - for stdout')
    _add_int8_options(parser)
    return parser


def _add_int8_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of INT8."""
    group = parser.add_argument_group('INT8')
    group.add_argument('--int8', action='store_true', help='write end2end_int8.onnx and int8.json, too')
    group.add_argument('--int8-images', type=whole(1, MOST_IMAGES), default=128,
                       help='training images from which ranges come (%(default)s)')
    group.add_argument('--int8-format', choices=FORMATS, help='(default: the faster one)')
    group.add_argument('--max-drop', type=points, default=1.0,
                       help='points of the metric that may be lost; sensitive layers stay in float (%(default)s)')
    group.add_argument('--metric', help="which metric (default: the config's save_best, else the first)")


def write_int8(deploy_cfg: Config, model_cfg: Config, deployed: Deployed, compared: bool,
               args: argparse.Namespace) -> None:
    """Write the file in INT8 and ``int8.json``; print what it costs and gains."""
    folder = Path(args.work_dir)
    complete_loaders(model_cfg)
    init_default_scope(model_cfg.get('default_scope') or 'mmengine')
    options = Int8Options(args.int8_images, args.max_drop, args.metric, args.int8_format, args.threads, args.rounds)
    with data_named(model_cfg):
        int8 = Int8Deployment(deploy_cfg, model_cfg, deployed.path, options)
        print('\n'.join(int8.describe_ranges()), flush=True)
        done = int8.search()
    print('\n'.join(int8.describe_search(done)), flush=True)
    files = {'pruned' if is_pruned(model_cfg) else 'dense': deployed.path}
    if compared:
        files = dict(dense=folder / 'dense.onnx', pruned=deployed.network_file(folder))
    with tempfile.TemporaryDirectory() as temporary:
        times = int8.time(files, done.left_in_float, deployed.x, Path(temporary))
    print('\n'.join(int8.finish(times, done.left_in_float)))
    write_json(int8.record, folder / 'int8.json')


def timed_beside_dense(model_cfg: Config, deployed: Deployed, args: argparse.Namespace) -> Dict[str, Any]:
    """Time a pruned network beside the dense one; return the record of their files and times."""
    folder = Path(args.work_dir) if args.json or args.int8 else None
    found = beside_dense(model_cfg, deployed.network, deployed.x, OnnxRuntime(args.threads), args.rounds, folder=folder)
    print(found)
    if args.require_faster:
        require_faster(found.speedup)
    files = {} if folder is None else dict(dense_file=folder / 'dense.onnx', pruned_file=deployed.network_file(folder))
    return dict(times=found.timing.as_json(),
                **{key: str(file) for key, file in files.items() if file != deployed.path})


def _check_dynamo(parser: argparse.ArgumentParser, args: argparse.Namespace, task: str) -> None:
    """End with an error unless the new exporter can export this."""
    if task != 'Classification':
        parser.error(f"--exporter dynamo exports classifiers; {task} needs mmdeploy's symbolic functions, which only "
                     'the TorchScript exporter knows')
    if args.device != 'cpu':
        parser.error('--exporter dynamo exports on the CPU; leave --device out')
