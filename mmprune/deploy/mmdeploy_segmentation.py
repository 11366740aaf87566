"""mmdeploy's segmentation task for our deploy configs and for dense segmentors of mmseg."""
from mmdeploy.codebase.mmseg.deploy.segmentation import MMSEG_TASK, Segmentation
from mmdeploy.utils import Task
from mmengine.config import Config

from ..arguments import UserError
from .mmdeploy_task import PrunedTask, is_pruned


@MMSEG_TASK.register_module(Task.SEGMENTATION.value, force=True)
class PrunedSegmentation(PrunedTask, Segmentation):
    """Segmentation task for dense models and for our deploy sub-models."""

    def __init__(self, model_cfg: Config, deploy_cfg: Config, device: str) -> None:
        super().__init__(_completed(model_cfg), deploy_cfg, device)


def _completed(model_cfg: Config) -> Config:
    """Return a config with everything where mmdeploy looks for it.

    It reads the data preprocessor in the model and beside it, where a config needs one only.

    Raises:
        UserError: There is no data preprocessor.
    """
    cfg = model_cfg.deepcopy()
    model = cfg.model.architecture if is_pruned(cfg) else cfg.model
    preprocessor = model.get('data_preprocessor') or cfg.get('data_preprocessor')
    if preprocessor is None:
        raise UserError('the config has no data_preprocessor, neither in its model nor beside it: mmdeploy needs its '
                        'mean and std')
    model.data_preprocessor = preprocessor
    if cfg.get('data_preprocessor') is None:
        cfg.data_preprocessor = preprocessor
    return cfg
