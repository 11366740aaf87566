"""Files of mmdeploy as models of mmdeploy, that predict as its own tester does, with a number of threads of ours."""
from typing import Any, Dict, Sequence

from mmdeploy.apis import build_task_processor
from mmdeploy.backend.base import BaseWrapper
from mmengine.config import Config
from torch import Tensor

from .onnx_runtime import OnnxModel


class FileWrapper(BaseWrapper):
    """What runs a file for a model of mmdeploy.

    Args:
        onnx_model (OnnxModel): The file.
        names (list[str]): Its outputs.
        wanted (list[str]): Those that the model reads, in its order.
    """

    def __init__(self, onnx_model: OnnxModel, names: Sequence[str], wanted: Sequence[str]) -> None:
        super().__init__(wanted)
        self._file, self._names = onnx_model, names

    def forward(self, inputs: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """Return output name -> tensor for the images of the only input.

        Raises:
            OnnxError: The file cannot take them.
        """
        return dict(zip(self._names, self._file(next(iter(inputs.values())))))


def backend_model(deploy_cfg: Config, cfg: Config, onnx_model: OnnxModel, names: Sequence[str]) -> Any:
    """Return mmdeploy's model of a task, whose file runs as it was opened.

    Args:
        deploy_cfg (Config): Names the task.
        cfg (Config): Of the model, dense or pruned.
        onnx_model (OnnxModel): The file.
        names (list[str]): Its outputs.
    """
    task = build_task_processor(cfg, deploy_cfg, 'cpu')
    model = task.build_backend_model([onnx_model.path], data_preprocessor_updater=task.update_data_preprocessor)
    model.wrapper = FileWrapper(onnx_model, names, model.output_names)
    return model.eval()
