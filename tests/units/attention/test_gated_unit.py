"""RTMPose's gated attention unit: gate, base and stream go, and cut and masked units are equal."""
import pytest
import torch
from attention_runtime import (
    assert_cut_equals_masked,
    assert_structure_is_rebuilt,
    assert_swap_computes_the_same,
    prepared,
    random_model,
)
from torch import nn

from mmprune.units.attention.taking_over import forward_for

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings('ignore:.*torch.cuda.amp.autocast')]
OPTIONS = {'plain': dict(), 'without positions': dict(use_rel_bias=False, act_fn='ReLU', bias=True),
           'as wide as its base': dict(expansion_factor=0.75), 'dropout': dict(dropout_rate=0.1, drop_path=0.1)}


class Head(nn.Module):
    """Maps of keypoints become tokens, as in RTMPose's head."""

    def __init__(self, **options):
        super().__init__()
        block = pytest.importorskip('mmpose.models.utils.rtmcc_block')
        self.conv, self.final_layer = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1)
        self.mlp = nn.Sequential(block.ScaleNorm(36), nn.Linear(36, 16, bias=False))
        self.gau, self.cls_x = block.RTMCCBlock(5, 16, 16, s=12, **options), nn.Linear(16, 7)

    def forward(self, x):
        return self.cls_x(self.gau(self.mlp(self.final_layer(self.conv(x).relu()).flatten(2))))


def run(model):
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return model(x)


@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
def test_the_unit_is_pruned_whole(options):
    model = random_model(lambda: Head(**options))
    assert_swap_computes_the_same(model, run)
    mutator = prepared(model, run)
    gate = model.gau.e
    assert [unit.name for unit in mutator.units] == [
        'conv_(0, 8)_8', 'mlp.1_(0, 16)_16', f'gau.uv_(0, {2 * gate})_{2 * gate}',
        f'gau.uv_({2 * gate}, {2 * gate + 12})_12']
    assert {channels.name: channels.reason for channels in mutator.frozen}['final_layer_(0, 5)_5'].startswith(
        'its maps are the tokens of an attention')
    assert mutator.complexity.products({}) == 2 * 5 * 5 * (12 + gate)  # images, pairs of tokens, base and values
    half = {('gau.product.query.weight', 0): 6, ('gau.o.weight', 1): gate // 2}
    assert mutator.complexity.products(half) == 2 * 5 * 5 * (6 + gate // 2)
    cut = assert_cut_equals_masked(mutator, run)
    product = cut.gau.product
    assert cut.gau.uv.out_features == 2 * product.value_dims + product.base_dims
    assert cut.gau.gamma.shape == cut.gau.beta.shape == (2, product.base_dims)
    assert product.scale == pytest.approx(12 ** -0.5)  # of the dense model


def test_a_structure_is_rebuilt():
    def make():
        torch.manual_seed(0)
        return Head().double().eval()

    assert_structure_is_rebuilt(make, prepared(make(), run), run)


def test_the_stream_stays_where_it_shall():
    mutator = prepared(random_model(Head), run, stream='whole')
    reason = {channels.name: channels.reason for channels in mutator.frozen}['mlp.1_(0, 16)_16']
    assert reason == "it is excluded: the stream stays (stream='whole')"


def test_what_is_not_followed():
    assert forward_for(Head(pos_enc=True).gau) is None
    block = pytest.importorskip('mmpose.models.utils.rtmcc_block')
    assert forward_for(block.RTMCCBlock(5, 16, 16, s=12, attn_type='cross-attn', use_rel_bias=False)) is None
