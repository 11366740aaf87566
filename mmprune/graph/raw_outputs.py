"""What a model computes from one tensor before any post-processing, auxiliary heads of segmentors included."""
import inspect
from typing import Any, List, Mapping, Optional

from mmengine.model import BaseModel
from torch import Tensor, nn

from .watching import watched


def raw_outputs(model: nn.Module, x: Tensor, arguments: Optional[Mapping[str, Any]] = None,
                auxiliary: bool = False) -> Any:
    """Run a model on one tensor, without data samples, and return what it computes before any post-processing.

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
    unused = {'data_samples': None} if 'data_samples' in inspect.signature(model.forward).parameters else {}
    arguments = {**unused, 'mode': 'tensor', **(arguments or {})}
    heads = _auxiliary_heads(model) if model.training or auxiliary else []
    if not heads:
        return model(x, **arguments)
    features: List[Any] = []
    last = model.get_submodule('neck' if getattr(model, 'with_neck', False) else 'backbone')
    with watched([('', last)], after=lambda name, module, args, kwargs, out: features.append(out)):
        outputs = model(x, **arguments)
    return outputs, [head(features[-1]) for head in heads]


def _auxiliary_heads(model: nn.Module) -> List[nn.Module]:
    """Return the auxiliary heads of a segmentor: none, one, or those of a list."""
    head = getattr(model, 'auxiliary_head', None)
    if head is None:
        return []
    return list(head) if isinstance(head, nn.ModuleList) else [head]
