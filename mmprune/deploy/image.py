"""From an image file to a model's input, by the test pipeline of its config."""
import importlib.util
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from torch import Tensor, nn

from ..config import plain
from ..graph.input_shape import pipeline_of
from ..units.structure import StructureError
from .load import input_shape, type_name


def sample_image() -> str:
    """Return the path of a photograph that comes with scikit-learn.

    Raises:
        FileNotFoundError: scikit-learn is not installed.
    """
    spec = importlib.util.find_spec('sklearn')
    for folder in (spec.submodule_search_locations if spec else None) or []:
        image = Path(folder) / 'datasets' / 'images' / 'china.jpg'
        if image.is_file():
            return str(image)
    raise FileNotFoundError('scikit-learn, whose photograph is the default image, is not installed; name an image')


def existing_image(image: Optional[str] = None) -> str:
    """Return the path of an image file, by default that of :func:`sample_image`.

    Raises:
        FileNotFoundError: There is no such file.
    """
    path = image or sample_image()
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no image {path!r}')
    return path


def image_input(cfg: Mapping[str, Any], model: nn.Module, image: Optional[str] = None) -> Tensor:
    """Send an image through the test pipeline of a config and the data preprocessor of its model.

    Args:
        cfg (Config): Has ``test_dataloader.dataset.pipeline`` or ``test_pipeline``.
        model (nn.Module): Built from the config.
        image (str, optional): Image file; by default that of :func:`sample_image`.

    Returns:
        Tensor[1, C, H, W]: The input of the model.

    Raises:
        FileNotFoundError: The file does not exist.
        StructureError: The config has no test pipeline.
    """
    path = existing_image(image)
    data = Compose(_pipeline_from_file(cfg))(dict(img_path=path, img_id=0))
    batch = pseudo_collate([data])
    preprocessor = getattr(model, 'data_preprocessor', None)
    inputs = preprocessor(batch, False)['inputs'] if preprocessor is not None else batch['inputs']
    return inputs if isinstance(inputs, Tensor) else torch.stack(list(inputs))


def test_pipeline_of(cfg: Mapping[str, Any]) -> List[Any]:
    """Return the test pipeline of a config, from an image file on, where its data set returns arrays, too.

    Args:
        cfg (Config): Has a pipeline of test or validation, in the data set of a loader or beside it. Arrays get the
            size of the model's input.

    Raises:
        StructureError: It has none.
    """
    pipeline = pipeline_of(cfg, 'test') or pipeline_of(cfg, 'val')
    if not pipeline:
        raise StructureError('the config has no test pipeline to send an image through')
    if type_name(pipeline[0]).startswith('LoadImage'):
        return list(plain(pipeline))
    height, width = input_shape(cfg)[-2:]
    return [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(width, height)), *plain(pipeline)]


def _pipeline_from_file(cfg: Mapping[str, Any]) -> List[Any]:
    """Return the test pipeline without annotations; poses are estimated in the whole image."""
    pipeline = [step for step in test_pipeline_of(cfg) if type_name(step) != 'LoadAnnotations']
    if 'GetBBoxCenterScale' in map(type_name, pipeline):
        pipeline.insert(1, _whole_image)
    return pipeline


def _whole_image(results: Dict[str, Any]) -> Dict[str, Any]:
    """Add the whole image as the box of a person."""
    height, width = results['img'].shape[:2]
    return dict(results, bbox=np.array([[0, 0, width, height]], dtype=np.float32), bbox_score=np.ones(1, np.float32))
