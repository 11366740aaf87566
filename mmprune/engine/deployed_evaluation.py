"""What a deployed file is worth by the evaluator of its model's config, on the images of its test."""
import os
from typing import Any, Dict, Optional, Sequence, Union

from mmengine.config import Config

from ..arguments import UserError
from ..deploy.deployed import deployed_model, task_of
from ..deploy.load import type_name
from ..deploy.onnx_runtime import OnnxModel
from .evaluation import Evaluation

#: Tasks whose images mmdeploy brings to the size of a file by the steps that resize, without keeping their ratio.
RESIZED = ('ObjectDetection', 'Segmentation')


class DeployedEvaluation:
    """Evaluates files of a model in onnxruntime, on the test data of its config, else on its validation data.

    A file for one image takes them one by one; one of a fixed size takes them as mmdeploy does, resized.

    Args:
        deploy_cfg (Config): By which the files were exported.
        cfg (Config): Of the model, dense or pruned.
        threads (int): Of onnxruntime.

    Raises:
        UserError: The config has no evaluation.
    """

    def __init__(self, deploy_cfg: Config, cfg: Config, threads: int = 1) -> None:
        self.deploy_cfg, self.cfg, self.threads, self.stage = deploy_cfg, cfg, threads, stage_of(cfg)
        self._evaluation: Optional[Evaluation] = None

    def __call__(self, path: Union[str, 'os.PathLike[str]']) -> Dict[str, float]:
        """Return metric -> value of a file; all files have the input of the first.

        Raises:
            UserError: The file does not fit.
            FileNotFoundError: The data are not there.
        """
        model = deployed_model(self.deploy_cfg, self.cfg, path, self.threads)
        if self._evaluation is None:
            shape = OnnxModel(path).session.get_inputs()[0].shape
            self._evaluation = Evaluation(fitted(self.cfg, self.stage, shape, task_of(self.deploy_cfg)), self.stage)
        return self._evaluation(model)


def stage_of(cfg: Config) -> str:
    """Return which stage of a config has data and an evaluator: ``test``, else ``val``.

    Raises:
        UserError: Neither has.
    """
    for stage in ('test', 'val'):
        if cfg.get(f'{stage}_dataloader') and cfg.get(f'{stage}_evaluator'):
            return stage
    raise UserError('the config has no test_dataloader and test_evaluator, nor those of a validation, by which a file '
                    'could be evaluated')


def fitted(cfg: Config, stage: str, shape: Sequence[Any], task: str) -> Config:
    """Return a config whose images fit a file.

    Args:
        cfg (Config): Of the model.
        stage (str): Whose images: ``train``, ``test`` or ``val``.
        shape (list): The file's input ``[N, C, H, W]``; what is no number is free.
        task (str): Of the deploy config.

    Raises:
        UserError: The file is for a fixed number of images above 1.
    """
    cfg = cfg.deepcopy()
    loader = cfg[f'{stage}_dataloader']
    if isinstance(shape[0], int):
        if shape[0] != 1:
            raise UserError(f'the file takes {shape[0]} images at a time, no more and no less: export it for one, or '
                            'with a dynamic deploy config')
        loader.batch_size = 1
    if task in RESIZED and isinstance(shape[2], int) and isinstance(shape[3], int):
        for step in innermost(loader.dataset).get('pipeline') or ():
            if type_name(step) == 'Resize':
                step.update(scale=(shape[3], shape[2]), keep_ratio=False)
            elif type_name(step) == 'Pad' and 'size' in step:
                step.size = (shape[3], shape[2])
    return cfg


def innermost(dataset: Any) -> Any:
    """Return the config of the data set inside those that repeat, balance or mix it; of several the first."""
    while 'dataset' in dataset or 'datasets' in dataset:
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return dataset
