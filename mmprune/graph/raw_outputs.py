"""What a model computes from one tensor before any post-processing, auxiliary heads of segmentors included."""
import inspect
from typing import Any, List, Mapping, Optional, Sequence

from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from .watching import watched


def raw_outputs(model: nn.Module, x: Tensor, arguments: Optional[Mapping[str, Any]] = None,
                auxiliary: bool = False) -> Any:
    """Run a model on one tensor and return what it computes before any post-processing.

    It gets no data samples, but for mmdet's detectors with a transformer: they ask for the sizes of the images, which
    are those of the tensor.

    A segmentor of mmseg runs its auxiliary heads on what the backbone or the neck puts out, but for the loss only. They
    run in train mode here, so that their weights follow a cut; they are not part of the costs.

    Args:
        model (nn.Module): The model; one of mmengine runs in its mode ``tensor``.
        x (Tensor[N, *]): What it is called with.
        arguments (dict, optional): Further keyword arguments of its forward.
        auxiliary (bool): Run auxiliary heads in eval mode too.

    Returns:
        Its output; where auxiliary heads run, ``(output, [output of each head])``.
    """
    if not isinstance(model, BaseModel):
        return model(x, **(arguments or {}))
    arguments = {**_data_samples(model, x), 'mode': 'tensor', **(arguments or {})}
    heads = _auxiliary_heads(model) if model.training or auxiliary else []
    if not heads:
        return model(x, **arguments)
    features: List[Any] = []
    last = model.get_submodule('neck' if getattr(model, 'with_neck', False) else 'backbone')
    with watched([('', last)], after=lambda name, module, args, kwargs, out: features.append(out)):
        outputs = model(x, **arguments)
    return outputs, [head(features[-1]) for head in heads]


def _data_samples(model: nn.Module, x: Tensor) -> Mapping[str, Any]:
    """Return the argument of that name, where the forward of a model has one."""
    if 'data_samples' not in inspect.signature(model.forward).parameters:
        return {}
    if not hasattr(model, 'forward_transformer'):  # DetectionTransformer of mmdet
        return {'data_samples': None}
    size = [int(side) for side in x.shape[2:]]
    return {'data_samples': [data_sample(size, size) for _ in range(len(x))]}


def data_sample(size: Sequence[int], padded: Sequence[int]) -> BaseDataElement:
    """Return the data sample of an image of some size in a batch of images ``padded`` to a larger one."""
    return BaseDataElement(metainfo=dict(img_shape=tuple(size), ori_shape=tuple(size), pad_shape=tuple(padded),
                                         batch_input_shape=tuple(padded), scale_factor=(1.0, 1.0)))


def _auxiliary_heads(model: nn.Module) -> List[nn.Module]:
    """Return the auxiliary heads of a segmentor: none, one, or those of a list."""
    head = getattr(model, 'auxiliary_head', None)
    if head is None:
        return []
    return list(head) if isinstance(head, nn.ModuleList) else [head]
