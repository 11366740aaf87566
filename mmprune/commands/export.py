"""Export a model to ONNX with torch alone, check the file against PyTorch on a real image, and time both.

mmprune export CONFIG CKPT --out model.onnx
python tools/export_onnx.py CONFIG CKPT --out model.onnx
python tools/export_onnx.py CONFIG CKPT --out model.onnx --image cat.jpg --dynamic --threads 2
python tools/export_onnx.py DEPLOY_CONFIG CKPT --out model.onnx --require-faster

CONFIG is a deploy config (or a finetune or plain one), CKPT its checkpoint, `none` for random weights. Works on every
supported torch, without mmdeploy. A classifier's file has the output `output`: class scores, the softmax of the logits.
A pruned model is timed beside the dense one, which gets random weights.
"""
from typing import Optional, Sequence

import torch

from ..command_line import add_config_options, add_require_faster, command_parser, rounds, threads
from ..deploy.beside_dense import beside_dense, check_comparable, is_pruned, require_faster
from ..deploy.comparison import compare, format_comparison
from ..deploy.image import existing_image, image_input
from ..deploy.load import RANDOM, load_model
from ..deploy.onnx_export import EXPORTERS, export_onnx
from ..deploy.runtimes.onnx_runtime import OnnxRuntime
from ..graph.detector_inputs import has_two_stages
from ..models.checkpoint import check_exists
from ..models.from_config import check_model, dense_config, merge, read_config


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = command_parser(__doc__, prog)
    parser.add_argument('config', help='deploy, finetune or plain config')
    parser.add_argument('checkpoint', help='checkpoint file or URL; none for random weights')
    parser.add_argument('--out', required=True, help='the ONNX file to write')
    parser.add_argument('--image', help='image for the check (default: a photograph that scikit-learn ships)')
    parser.add_argument('--dynamic', action='store_true', help='leave the batch size free')
    parser.add_argument('--exporter', choices=EXPORTERS, default=EXPORTERS[0],
                        help="torch's exporter (default: %(default)s); dynamo needs a new torch and onnxscript")
    parser.add_argument('--threads', type=threads, default=1, help='threads of PyTorch and onnxruntime (1)')
    parser.add_argument('--rounds', type=rounds, default=30, help='timed runs of each (30)')
    add_require_faster(parser)
    add_config_options(parser)
    args = parser.parse_args(argv)
    if args.checkpoint != RANDOM:
        check_exists(args.checkpoint)
    image = existing_image(args.image)
    torch.set_num_threads(args.threads)
    cfg = read_config(args.config)
    merge(cfg, args.cfg_options)
    check_model(cfg, args.config)
    if has_two_stages(dense_config(cfg)[0]):
        parser.error(f'{args.config} is a detector of two stages, the second of which reads what the first finds: '
                     'mmprune deploy exports it, by mmdeploy')
    check_comparable(args.require_faster, cfg, args.config)
    model = load_model(cfg, args.checkpoint)
    x = image_input(cfg, model, image)
    wrapped = export_onnx(model, x, args.out, args.dynamic, args.exporter)
    print(format_comparison(args.out, *compare(args.out, wrapped, x, args.threads, args.rounds)))
    if is_pruned(cfg):
        found = beside_dense(cfg, args.out, x, OnnxRuntime(args.threads), args.rounds)
        print(found)
        if args.require_faster:
            require_faster(found.speedup)
