"""torchvision's transformers: heads, dimensions and streams are units, and cut and masked models are equal."""
import copy

import pytest
import torch
from attention_runtime import (
    assert_cut_equals_masked,
    assert_structure_is_rebuilt,
    assert_swap_computes_the_same,
    parts,
    prepared,
    random_model,
)

pytest.importorskip('torchvision')
pytestmark = pytest.mark.filterwarnings('ignore:torch.meshgrid')  # MaxViT's own
from torchvision.models.maxvit import MaxVit  # noqa: E402
from torchvision.models.swin_transformer import (  # noqa: E402
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)
from torchvision.models.vision_transformer import VisionTransformer  # noqa: E402

V2 = dict(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2)
#: Windows of 3 places do not divide the maps; of one map, a window is as large as it is and does not shift.
MODELS = {
    'vit': lambda: VisionTransformer(32, 8, 2, 4, 16, 32, num_classes=5),
    'swin': lambda: SwinTransformer([2, 2], 16, [2, 2], [2, 4], [3, 3], num_classes=5),
    'swin_v2': lambda: SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4], num_classes=5, **V2),
    'maxvit': lambda: MaxVit((32, 32), 16, 2, [16, 24], [1, 1], 8, stochastic_depth_prob=0.0, num_classes=5)}


def forward(model):
    return model(torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize('name', MODELS)
def test_every_channel_is_in_a_unit(name):
    model = random_model(MODELS[name])
    assert_swap_computes_the_same(model, forward)
    mutator = prepared(copy.deepcopy(model), forward)
    assert parts(mutator) == {'heads', 'qk', 'v', 'stream', ''}
    assert {channels.reason for channels in mutator.frozen} <= {
        "it is the model's input, or comes from an operation without channels", 'it is an output of the model',
        'no conv or linear layer produces it'}  # the table of distances of Swin V2
    assert_cut_equals_masked(mutator, forward)
    assert_structure_is_rebuilt(lambda: random_model(MODELS[name]), mutator, forward)
