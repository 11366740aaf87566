"""Rewriters that let mmdeploy export ``mmcls::`` models like ``mmpretrain::`` models.

mmdeploy 1.3.1 names mmpretrain's classes only: its rewriters are registered again under mmcls's names, whose code is
the same. That of classifiers, which asks for mmpretrain's heads, is written anew; those for Swin's window attention are
left out, because with mmdeploy 1.3.1 they fail for mmpretrain too (``get_attn_mask`` is static and gets bound).
"""
import importlib.util
from typing import Any, List, Optional

from mmdeploy.codebase.mmpretrain.models.backbones.shufflenet_v2 import shufflenetv2_backbone__forward__default
from mmdeploy.codebase.mmpretrain.models.necks.gap import gap__forward
from mmdeploy.codebase.mmpretrain.models.utils.attention import multiheadattention__forward__ncnn
from mmdeploy.core import FUNCTION_REWRITER
from mmdeploy.utils import Backend
from torch import Tensor, nn

from .onnx_export import score_function, to_scores


def classifier__forward(self: nn.Module, batch_inputs: Tensor, data_samples: Optional[List[Any]] = None,
                        mode: str = 'predict') -> Tensor:
    """Return class scores ``Tensor[N, classes]`` of images ``Tensor[N, C, H, W]``, instead of mmcls's data samples."""
    features, function = self.extract_feat(batch_inputs), score_function(self)
    raw = self.head(features) if self.head is not None else features
    return raw if function == 'none' else to_scores(raw, function)


def _register() -> None:
    """Register the rewriters under the names of mmcls's classes."""
    default, ncnn = Backend.DEFAULT.value, Backend.NCNN.value
    for name, backend, function in (
            ('classifiers.ImageClassifier.forward', default, classifier__forward),
            ('classifiers.BaseClassifier.forward', default, classifier__forward),
            ('necks.GlobalAveragePooling.forward', default, gap__forward),
            ('backbones.shufflenet_v2.InvertedResidual.forward', default, shufflenetv2_backbone__forward__default),
            ('utils.attention.MultiheadAttention.forward', ncnn, multiheadattention__forward__ncnn)):
        FUNCTION_REWRITER.register_rewriter(f'mmcls.models.{name}', backend=backend)(function)


if importlib.util.find_spec('mmcls') is not None:
    _register()
