"""Rewriters that let mmdeploy export ``mmcls::`` models as it exports ``mmpretrain::`` ones.

mmdeploy 1.3.1 names mmpretrain's classes only. Its rewriters are registered again under mmcls's names, whose code is
the same; the classifier's, which asks for mmpretrain's heads, is written anew. Those for Swin's window attention are
left out: with mmdeploy 1.3.1 they fail for mmpretrain too (``get_attn_mask`` is static and gets bound).
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
    """Return class scores instead of data samples.

    Args:
        self (ImageClassifier): mmcls's.
        batch_inputs (Tensor[N, C, H, W]): Normalised images.
        data_samples (list, optional): Not used.
        mode (str): Not used; an exported model only predicts.

    Returns:
        Tensor[N, classes]: Softmax of the logits, or their sigmoid for a multi-label head.
    """
    features = self.extract_feat(batch_inputs)
    function = score_function(self)
    raw = self.head(features) if self.head is not None else features
    return raw if function == 'none' else to_scores(raw, function)


def _register() -> None:
    default, ncnn = Backend.DEFAULT.value, Backend.NCNN.value
    models = 'mmcls.models.'
    for name, backend, function in (
            ('classifiers.ImageClassifier.forward', default, classifier__forward),
            ('classifiers.BaseClassifier.forward', default, classifier__forward),
            ('necks.GlobalAveragePooling.forward', default, gap__forward),
            ('backbones.shufflenet_v2.InvertedResidual.forward', default, shufflenetv2_backbone__forward__default),
            ('utils.attention.MultiheadAttention.forward', ncnn, multiheadattention__forward__ncnn)):
        FUNCTION_REWRITER.register_rewriter(models + name, backend=backend)(function)


if importlib.util.find_spec('mmcls') is not None:
    _register()
