"""A demo input for networks whose auxiliary heads are no part of their forward: mmseg's segmentors."""
from typing import Any, List

from torch import nn

from ..registry import TASK_UTILS
from .demo_input import DemoInput
from .watching import watched


@TASK_UTILS.register_module()
class SegmentorDemoInput(DemoInput):
    """Random images, for mmseg's segmentors with auxiliary heads.

    A segmentor runs its auxiliary heads on what the backbone or the neck puts out, but for the loss only. They run in
    train mode here, so that their weights follow a cut; they are not part of the costs.
    """

    def __call__(self, model: nn.Module) -> Any:
        """Run the segmentor, in train mode with its auxiliary heads, and return the raw outputs of all heads."""
        heads = _auxiliary_heads(model) if model.training else []
        if not heads:
            return super().__call__(model)
        features: List[Any] = []
        last = model.get_submodule('neck' if getattr(model, 'with_neck', False) else 'backbone')
        with watched([('', last)], after=lambda name, module, args, kwargs, out: features.append(out)):
            outputs = super().__call__(model)
        return outputs, [head(features[-1]) for head in heads]


def _auxiliary_heads(model: nn.Module) -> List[nn.Module]:
    """Return the auxiliary heads of a segmentor: none, one, or those of a list."""
    head = getattr(model, 'auxiliary_head', None)
    if head is None:
        return []
    return list(head) if isinstance(head, nn.ModuleList) else [head]
