"""A deployed file as a model: what the evaluator of its config takes, like the PyTorch model before it."""
import importlib
import os
from typing import Any, List, Mapping, Optional, Sequence, Union

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import Tensor, nn

from ..arguments import UserError, optional_package
from ..models.architecture import build_architecture
from ..models.from_config import dense_config
from ..registry import load_plugins
from .onnx_export import score_function
from .onnx_runtime import OnnxModel

#: Codebase of a deploy config -> what the default scope of the model's config may be.
SCOPES = {'mmpretrain': ('mmpretrain', 'mmcls'), 'mmdet': ('mmdet', ), 'mmpose': ('mmpose', ), 'mmseg': ('mmseg', )}
CLASSIFICATION = 'Classification'


class DeployedClassifier(BaseModel):
    """A file that returns class scores, of mmdeploy or of :func:`~mmprune.deploy.onnx_export.export_onnx`.

    Args:
        dense (nn.Module): The dense model of the config: its data preprocessor and its head's settings are used, its
            weights are not.
        onnx_model (OnnxModel): The file.

    Raises:
        UserError: The model is no classifier.
    """

    def __init__(self, dense: nn.Module, onnx_model: OnnxModel) -> None:
        if score_function(dense) == 'none':
            raise UserError(f'the deploy config is for classifiers; the model of the config is {type(dense).__name__} '
                            'without a head that classifies')
        super().__init__(data_preprocessor=dense.data_preprocessor)
        self._file, self._many = onnx_model, score_function(dense) == 'sigmoid'
        head: Any = dense.head
        self._threshold, self._most = getattr(head, 'thr', None), getattr(head, 'topk', None)

    def forward(self, inputs: Tensor, data_samples: Optional[Sequence[Any]] = None, mode: str = 'predict') -> List[Any]:
        """Return the data samples of images ``Tensor[N, C, H, W]`` with the scores and labels that the file gives.

        Raises:
            OnnxError: The file cannot take the images.
            UserError: It returns something else than one row of scores for each.
        """
        scores = self._file(inputs)[0]
        if scores.dim() != 2 or len(scores) != len(inputs):
            raise UserError(f'{self._file.path!r} returns {tuple(scores.shape)} for {len(inputs)} images; a classifier '
                            'returns a row of scores for each')
        samples = list(data_samples or ())
        for sample, row in zip(samples, scores):
            sample.set_pred_score(row).set_pred_label(self._labels(row))
        return samples

    def _labels(self, scores: Tensor) -> Tensor:
        """Return the classes of an image: the best one, or those that a head of many labels takes."""
        if not self._many:
            return scores.argmax(dim=0, keepdim=True)
        if self._threshold is None and self._most is not None:
            return scores.topk(self._most).indices
        return torch.where(scores >= (0.5 if self._threshold is None else self._threshold))[0]


def deployed_model(deploy_cfg: Config, cfg: Config, path: Union[str, 'os.PathLike[str]'],
                   threads: int = 1) -> BaseModel:
    """Return a model with ``test_step`` that predicts by a file in onnxruntime, on the CPU.

    Args:
        deploy_cfg (Config): By which the file was exported.
        cfg (Config): Of the model, dense or pruned.
        path (str): The file, with its post-processing; that of a classifier may come from ``mmprune export``.
        threads (int): Of onnxruntime.

    Raises:
        UserError: The three do not belong together.
        MissingPackageError: It is no classifier, and mmdeploy is not installed.
    """
    check_scope(deploy_cfg, cfg)
    onnx_model = OnnxModel(path, threads)
    if task_of(deploy_cfg) == CLASSIFICATION:
        return DeployedClassifier(build_architecture(dense_config(cfg)[0], None)[0], onnx_model).eval()
    names = [output.name for output in onnx_model.session.get_outputs()]
    wanted = list(deploy_cfg.onnx_config.output_names)
    if not {*wanted} <= {*names}:
        raise UserError(f'{onnx_model.path!r} has the outputs {", ".join(names[:6])}, the deploy config names '
                        f'{", ".join(wanted)}: it is no file that mmprune deploy wrote by this deploy config, with '
                        'its post-processing')
    optional_package('mmdeploy')
    load_plugins()
    model: BaseModel = importlib.import_module('mmprune.deploy.mmdeploy_backend').backend_model(
        deploy_cfg, cfg, onnx_model, names)
    return model


def task_of(deploy_cfg: Mapping[str, Any]) -> str:
    """Return the task of a deploy config, such as ``Classification``."""
    return str((deploy_cfg.get('codebase_config') or {}).get('task'))


def check_scope(deploy_cfg: Mapping[str, Any], cfg: Mapping[str, Any]) -> None:
    """Raise UserError unless a deploy config is for onnxruntime and for models of a config's codebase."""
    backend = (deploy_cfg.get('backend_config') or {}).get('type')
    codebase = str((deploy_cfg.get('codebase_config') or {}).get('type'))
    if codebase not in SCOPES or backend != 'onnxruntime':
        raise UserError(f'the deploy config is for {codebase} on {backend}; it must be for {", ".join(SCOPES)} on '
                        'onnxruntime, as those in configs/deploy')
    scope = cfg.get('default_scope')
    if scope not in SCOPES[codebase]:
        raise UserError(f'the deploy config is for models of {codebase}, the model config is of {scope}')
