"""The input that the model of a config sees when it is tested: the size that costs are counted for."""
import math
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ..arguments import sizes

#: Where a config tells no size.
DEFAULT = (1, 3, 224, 224)
#: Height and width.
Size = Tuple[int, int]


def shape_or_test_input(given: Optional[Sequence[int]], cfg: Mapping[str, Any]) -> Tuple[int, ...]:
    """Return the input shape that is given, checked; else that of the test pipeline of a config; else (1, 3, 224, 224).

    Raises:
        UserError: The shape is none of four positive sizes.
    """
    return input_of_test(cfg) or DEFAULT if given is None else sizes('input_shape', given)


def input_of_test(cfg: Mapping[str, Any]) -> Optional[Tuple[int, ...]]:
    """Return the shape ``(1, C, H, W)`` of an image in the test of a config's model; None if the config tells none.

    It is what the steps of the test pipeline leave (of mmcls, mmpretrain, mmdet, mmseg or mmpose), else the input size
    of a codec, else what the steps of the training pipeline leave. An image that keeps its aspect ratio is as wide as
    it may be; but a scale such as (2048, 512) bounds the shorter side only, and stands for a square. Padding by the
    data preprocessor, and windows that slide over an image, are taken into account.

    Args:
        cfg (Config): Any config with a model.
    """
    model = cfg.get('model') or {}
    preprocessor = model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    window = _window(model.get('test_cfg') or {})
    size = window or next(filter(None, (
        _after(pipeline_of(cfg, 'test')), _after(pipeline_of(cfg, 'val')), _pair(_codec(cfg).get('input_size')),
        _after(pipeline_of(cfg, 'train')))), None)
    if size is None:
        return None
    if window is None:
        size = _rounded(size, preprocessor.get('pad_size_divisor') or 1)
    mean = preprocessor.get('mean')
    return (1, len(mean) if isinstance(mean, (list, tuple)) and mean else 3, *size)


def _window(test_cfg: Any) -> Optional[Size]:
    """Return the size of the windows that slide over an image, in mmseg's test."""
    if not isinstance(test_cfg, Mapping) or test_cfg.get('mode') != 'slide':
        return None
    size = _pair(test_cfg.get('crop_size'))
    return size and (size[1], size[0])  # height first, here


def _codec(cfg: Mapping[str, Any]) -> Mapping[str, Any]:
    codec = cfg.get('codec') or {}
    return codec if isinstance(codec, Mapping) else codec[0]


def pipeline_of(cfg: Mapping[str, Any], stage: str) -> List[Any]:
    """Return the steps of a stage's pipeline, through data sets that wrap others, of several the first; [] without one.

    Args:
        cfg (Config): Of a model with its data.
        stage (str): ``train``, ``val`` or ``test``.
    """
    dataset: Any = (cfg.get(f'{stage}_dataloader') or {}).get('dataset') or {}
    while not dataset.get('pipeline') and (dataset.get('dataset') or dataset.get('datasets')):
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    return list(dataset.get('pipeline') or cfg.get(f'{stage}_pipeline') or [])


def _after(steps: Sequence[Any]) -> Optional[Size]:
    """Return the size of an image after the steps of a pipeline; None if no step states one."""
    size: Optional[Size] = None
    for step in steps:
        if isinstance(step, Mapping) and 'type' in step:
            size = _after_step(str(step['type']).rpartition('.')[2], step, size)
    return size


def _after_step(name: str, step: Mapping[str, Any], size: Optional[Size]) -> Optional[Size]:
    stated = {key: _pair(step.get(key)) for key in SIZE_KEYS.get(name, ())}
    found = next(filter(None, stated.values()), None)
    if found is not None and step.get('keep_ratio') and max(found) > 2 * min(found):
        return min(found), min(found)
    if found is not None:
        return found
    if name == 'Pad' and size is not None:
        if step.get('pad_to_square'):
            size = (max(size), max(size))
        return _rounded(size, step.get('size_divisor') or 1)
    return size


#: Transform -> the arguments that state a size, width first or a single number.
SIZE_KEYS: Dict[str, Tuple[str, ...]] = {
    **dict.fromkeys(('Resize', 'ResizeEdge', 'LetterResize', 'YOLOv5KeepRatioResize'), ('scale', )),
    **dict.fromkeys(('CenterCrop', 'RandomCrop'), ('crop_size', )),
    **dict.fromkeys(('RandomResizedCrop', 'EfficientNetRandomCrop', 'EfficientNetCenterCrop'), ('scale', 'crop_size')),
    **dict.fromkeys(('TopdownAffine', 'BottomupResize', 'BottomupRandomAffine'), ('input_size', )),
    'Pad': ('size', )}


def _pair(value: Any) -> Optional[Size]:
    """Return height and width of a size as pipelines state it, ``(width, height)`` or one number."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value, value
    if isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(one, int) and one > 0 for one in value):
        return value[1], value[0]
    return None


def _rounded(size: Size, divisor: int) -> Size:
    """Return a size that was padded to a multiple of a number."""
    return math.ceil(size[0] / divisor) * divisor, math.ceil(size[1] / divisor) * divisor
