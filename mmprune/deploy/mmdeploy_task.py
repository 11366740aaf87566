"""mmdeploy's tasks for our deploy configs and for mmcls.

mmdeploy reads the head, the backbone and the test settings from the model config; in our deploy configs they are inside
``architecture``. These tasks show mmdeploy the architecture, and build the pruned model when it asks for the PyTorch
model. mmdeploy's modules of a task import neither mmpretrain, mmdet nor mmpose.
"""
from pathlib import Path
from typing import Any, Optional, Union

import mmcv
import numpy as np
from mmdeploy.codebase.base import BaseTask
from mmdeploy.codebase.mmdet.deploy.object_detection import MMDET_TASK, ObjectDetection
from mmdeploy.codebase.mmpose.deploy.pose_detection import MMPOSE_TASK, PoseDetection
from mmdeploy.codebase.mmpretrain.deploy.classification import MMPRETRAIN_TASK, Classification
from mmdeploy.utils import Task
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from ..graph.input_shape import pipeline_of
from .image import test_pipeline_of
from .load import type_name


class PrunedTask(BaseTask):
    """Shows mmdeploy the architecture of a deploy config; configs of dense models are passed on as they are.

    Both have their test pipeline where mmdeploy looks for it.
    """

    model_cfg: Config

    def __init__(self, model_cfg: Config, deploy_cfg: Config, device: str) -> None:
        self._given_cfg = model_cfg = _with_test_pipeline(model_cfg)
        super().__init__(_architecture_cfg(model_cfg), deploy_cfg, device)
        scope = model_cfg.get('default_scope')
        if scope:  # mmdeploy sets the scope of the first model of a process only
            init_default_scope(scope)

    @property
    def whole_cfg(self) -> Config:
        """The given config, with what mmdeploy's task changed in the architecture."""
        if not is_pruned(self._given_cfg):
            return self.model_cfg
        whole = self._given_cfg.deepcopy()
        whole.model.architecture = self.model_cfg.model
        return whole

    def build_pytorch_model(self, model_checkpoint: Optional[str] = None, cfg_options: Optional[dict] = None,
                            **kwargs: Any) -> nn.Module:
        """Build the model, pruned and padded if the config is a deploy config; arguments are those of mmdeploy."""
        shown, self.model_cfg = self.model_cfg, self.whole_cfg
        try:
            return super().build_pytorch_model(model_checkpoint, cfg_options, **kwargs)
        finally:
            self.model_cfg = shown


@MMDET_TASK.register_module(Task.OBJECT_DETECTION.value, force=True)
class PrunedObjectDetection(PrunedTask, ObjectDetection):
    """Object detection task for dense models and for our deploy sub-models."""


@MMPOSE_TASK.register_module(Task.POSE_DETECTION.value, force=True)
class PrunedPoseDetection(PrunedTask, PoseDetection):
    """Pose detection task for dense models and for our deploy sub-models."""


@MMPRETRAIN_TASK.register_module(Task.CLASSIFICATION.value, force=True)
class PrunedClassification(PrunedTask, Classification):
    """Classification task for dense models, for our deploy sub-models, and for both on mmcls."""

    def get_preprocess(self, *args: Any, **kwargs: Any) -> dict:
        """Return the pipeline for mmdeploy's SDK, with mmpretrain's name of mmcls's packing step."""
        shown, self.model_cfg = self.model_cfg, self.model_cfg.deepcopy()
        for step in self.model_cfg.test_pipeline:
            if step['type'] == 'PackClsInputs':
                step['type'] = 'PackInputs'
        try:
            return super().get_preprocess(*args, **kwargs)
        finally:
            self.model_cfg = shown

    def visualize(self, image: Union[str, np.ndarray], result: Any, output_file: str, window_name: str = '',
                  show_result: bool = False, **kwargs: Any) -> None:
        """Draw a prediction; mmcls's visualizer has another method for it than mmpretrain's."""
        output = Path(output_file)
        visualizer = self.get_visualizer(window_name, str(output.parent))
        if hasattr(visualizer, 'visualize_cls'):
            super().visualize(image, result, output_file, window_name, show_result, **kwargs)
        else:
            visualizer.add_datasample(output.stem, mmcv.imread(image, channel_order='rgb'), result, show=show_result,
                                      out_file=output_file)


def is_pruned(model_cfg: Config) -> bool:
    """Tell whether a config is one of our deploy configs."""
    return type_name(model_cfg['model']) == 'GroupFisherDeploySubModel'


def _with_test_pipeline(model_cfg: Config) -> Config:
    """Return a config with its test pipeline, if it has one, beside the data loader, where mmdeploy looks for it."""
    if 'test_pipeline' in model_cfg or not (pipeline_of(model_cfg, 'test') or pipeline_of(model_cfg, 'val')):
        return model_cfg
    cfg = model_cfg.deepcopy()
    cfg.test_pipeline = test_pipeline_of(model_cfg)
    return cfg


def _architecture_cfg(model_cfg: Config) -> Config:
    """Return the config with the architecture as its model, if it is one of our deploy configs."""
    if not is_pruned(model_cfg):
        return model_cfg
    shown = model_cfg.deepcopy()
    shown.model = shown.model.architecture
    return shown
