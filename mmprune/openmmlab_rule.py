"""Rules for modules and compiled operations of mmcv and mmdet, by class name: neither is imported here."""
from typing import Any, Dict, Sequence

from torch import Tensor, nn

from .module_rule import keeps_channels, register_module
from .op_rule import register_op

# Pooling of regions works inside each channel.
register_op('RoIAlignFunction', 'RoIPoolFunction', 'RoIAlignRotatedFunction')(keeps_channels)


@register_module('SingleRoIExtractor')
def region_extractor(tracer: Any, module: nn.Module, args: Sequence[Any], kwargs: Dict[str, Any], out: Tensor) -> None:
    """Regions are pooled from one level each, into a tensor of ``module.out_channels``."""
    levels = args[0] if args else kwargs['feats']
    ids = tracer.channels_of(levels[0], 1)
    for level in levels[1:]:
        tracer.tie_or_freeze(ids, tracer.channels_of(level, 1), level)
    if bool((ids >= 0).all()):
        tracer.follow_attribute(module, 'out_channels', ids)
    tracer.set_labels(out, ids.view(1, -1, 1, 1).expand(out.shape))
