"""Test a deployed file in onnxruntime: the evaluator of its model's config says what it is worth.

mmprune test-deployed DEPLOY_CFG MODEL_CFG end2end.onnx
mmprune test-deployed DEPLOY_CFG MODEL_CFG end2end.onnx --json metrics.json --threads 2
python tools/test_deployed.py DEPLOY_CFG MODEL_CFG end2end.onnx

DEPLOY_CFG is the one by which `mmprune deploy` wrote the file, MODEL_CFG the config of the model, pruned or dense. The
images are those of its test_dataloader, else of its val_dataloader. What is measured is the file as it is deployed,
with its post-processing: without flip testing, and a segmentor's image seen as a whole. Classifiers need no mmdeploy,
and their file may come from `mmprune export`.
"""
from pathlib import Path
from typing import Optional, Sequence

import torch
from mmengine.registry import init_default_scope

from ..command_line import add_config_options, command_parser, emit_json, threads
from ..deploy.deployed import check_scope
from ..engine.deployed_evaluation import DeployedEvaluation
from ..engine.training_config import data_named, runner_config
from ..models.from_config import read_config


def main(argv: Optional[Sequence[str]] = None, prog: Optional[str] = None) -> None:
    """Run the command.

    Args:
        argv (list[str], optional): Its arguments; default: those of the process.
        prog (str, optional): What it is called in its help; default: the script that runs.
    """
    parser = command_parser(__doc__, prog)
    parser.add_argument('deploy_cfg', help='such as configs/deploy/classification_onnxruntime_static.py')
    parser.add_argument('config', metavar='model_cfg', help='config of the model')
    parser.add_argument('file', help='the ONNX file')
    parser.add_argument('--json', help='write the metrics to a file, or - for stdout')
    parser.add_argument('--threads', type=threads, default=1, help='threads of PyTorch and onnxruntime (1)')
    parser.add_argument('--work-dir', help='folder that test_deployed.json, with the metrics, goes to (none)')
    add_config_options(parser)
    parser.set_defaults(launcher='none', local_rank=0)
    args = parser.parse_args(argv)
    if not Path(args.file).is_file():
        raise FileNotFoundError(f'there is no file {args.file!r}')
    deploy_cfg, cfg = read_config(args.deploy_cfg), runner_config(args)
    check_scope(deploy_cfg, cfg)
    init_default_scope(cfg.default_scope)
    evaluation = DeployedEvaluation(deploy_cfg, cfg, args.threads)
    torch.set_num_threads(args.threads)
    with data_named(cfg):
        metrics = evaluation(args.file)
    lines = [f'  {name}: {value:.4f}' for name, value in metrics.items()]
    print('\n'.join([f'{args.file}, by {evaluation.stage}_evaluator:', *lines]))
    if args.work_dir is not None:
        emit_json(metrics, str(Path(args.work_dir) / 'test_deployed.json'))
    if args.json:
        emit_json(metrics, args.json)
