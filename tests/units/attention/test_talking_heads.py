"""Layers that mix the heads before and behind the softmax: a head goes from both, and is scored by all that it does."""
import copy

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

from mmprune import PrunableAttention, Pruner, register_attention
from mmprune.deploy.onnx_export import export_onnx
from mmprune.graph.factors import HEADS
from mmprune.registry import MODELS, build
from mmprune.repair.refit import repair
from mmprune.units.attention.products import TalkingProduct

HEAD_COUNT, DIM, TOKENS = 3, 12, 5
X = torch.randn(4, TOKENS, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(4) % 3


class Talking(nn.Module):
    """As CaiT writes it, or with convolutions over the heads as EfficientFormer V2 does."""

    def __init__(self, dim, heads, convolves):
        super().__init__()
        self.heads, self.convolves = heads, convolves
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.before, self.behind = (nn.Conv2d(heads, heads, 1) if convolves else nn.Linear(heads, heads)
                                    for _ in range(2))

    def mixed(self, products, layer):
        if self.convolves:
            return layer(products)
        return layer(products.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward(self, x):
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        products = self.mixed(q @ k.transpose(-2, -1) * (dim // self.heads) ** -0.5, self.before)
        out = self.mixed(products.softmax(-1), self.behind) @ v
        return self.proj(out.transpose(1, 2).reshape(batch, tokens, dim))


@register_attention(f'{__name__}.Talking')
class TalkingForward(PrunableAttention):
    """The same with sizes from its product."""

    def begin(self):
        size = self.qkv.in_features // self.heads
        self.product = TalkingProduct(self.heads, size, size)

    def forward(self, x):
        return self.proj(self.product(self.qkv(x), before=self.before, behind=self.behind))


class Classifier(nn.Module):
    def __init__(self, convolves=False):
        super().__init__()
        self.embed, self.attn = nn.Linear(4, DIM), Talking(DIM, HEAD_COUNT, convolves)
        self.norm, self.head = nn.LayerNorm(DIM), nn.Linear(DIM, 3)

    def forward(self, x):
        x = self.embed(x)
        return self.head(self.norm(x + self.attn(x)).mean(1))


def forward(model):
    return model(X)


def heads_of(mutator):
    return next(unit for unit in mutator.units if unit.channels.part == HEADS)


@pytest.mark.parametrize('convolves', [False, True])
def test_a_head_goes_from_both_layers(convolves):
    def make():
        return random_model(lambda: Classifier(convolves))

    assert_swap_computes_the_same(make(), forward)
    mutator = prepared(make(), forward)
    assert {member.axis.layer.rpartition('.')[2] for member in heads_of(mutator).channels.members} == {
        'qkv', 'proj', 'before', 'behind', 'query'}
    assert_cut_equals_masked(mutator, forward)
    assert_structure_is_rebuilt(make, prepared(make(), forward), forward)


@pytest.mark.parametrize('convolves', [False, True])
def test_the_cut_model_is_exported(convolves, tmp_path):
    runtime = pytest.importorskip('onnxruntime')
    model = random_model(lambda: Classifier(convolves)).float()
    Pruner(model, X[:1].float(), 'L2', target=dict(ratio=0.4, scope='layer')).cut()
    export_onnx(model, X[:1].float(), tmp_path / 'x.onnx')
    session = runtime.InferenceSession(str(tmp_path / 'x.onnx'), providers=['CPUExecutionProvider'])
    found = session.run(None, {'input': X[:1].float().numpy()})[0]
    assert torch.allclose(torch.from_numpy(found), model(X[:1].float()), rtol=1e-4, atol=1e-5)


def test_costs_are_those_of_the_layers():
    """Of a head: its column and row of either layer, at every pair of tokens."""
    model = random_model(Classifier)
    pruner = Pruner(model, X[:1])
    unit, cost = heads_of(pruner.mutator), pruner.mutator.complexity.cost
    mixing = {count: 2 * TOKENS * TOKENS * count * count for count in (3, 2)}
    around = 4 * DIM * DIM // HEAD_COUNT * TOKENS  # its rows of queries, keys and values, its columns behind
    masks = {unit.name: torch.tensor([True] * 8 + [False] * 4 if len(unit.kept) == DIM else [
        True, True, False]).numpy()}
    less = cost(pruner.mutator.surgery.widths_with(masks))['macs']
    assert cost({})['macs'] - less == around + mixing[3] - mixing[2]


def test_scores_are_the_slope_of_the_loss():
    """Group Fisher sums what a head does as an input of either layer and of the projection, by finite differences."""
    model = random_model(Classifier)
    by_hand = copy.deepcopy(model)
    mutator = build(MODELS, dict(
        type='GroupFisherChannelMutator', demo_input=dict(type='ExampleInputs', inputs=X), channel_unit_cfg=dict(
            type='GroupFisherChannelUnit', mutate_linear=True, normalization_type='none')))
    mutator.prepare(model)
    mutator.taps.record(True)
    nn.functional.cross_entropy(model(X), LABELS).backward()
    mutator.accumulate(mutator.taps.take())
    unit = heads_of(mutator)
    start = mutator._start[unit.name]
    found = mutator.fisher[start:start + mutator._count[unit.name]]
    step = 1e-5
    for head in range(HEAD_COUNT):
        slopes = torch.zeros(len(X), dtype=torch.float64)
        for sample in range(len(X)):
            less, more = (loss_with(by_hand, sample, head, 1 + sign * step) for sign in (-1, 1))
            slopes[sample] = (more - less) / (2 * step)
        assert float(found[head]) == pytest.approx(float(slopes.square().sum()), rel=1e-6)
    mutator.release()


@torch.no_grad()
def loss_with(model, sample, head, factor):
    """Return the loss where a head of one sample is multiplied by a factor wherever a layer reads it."""
    attention = model.attn

    def scaled(module, args):
        x = args[0].clone()
        channels = slice(head * 4, head * 4 + 4) if module is attention.proj else head
        x[sample, ..., channels] *= factor
        return x

    handles = [layer.register_forward_pre_hook(scaled) for layer in (
        attention.before, attention.behind, attention.proj)]
    try:
        return nn.functional.cross_entropy(model(X), LABELS)
    finally:
        for handle in handles:
            handle.remove()


def test_a_repair_solves_both_layers():
    """The dense twin is a copy from before the trace, whose attention runs its own forward."""
    model = random_model(Classifier)
    dense = copy.deepcopy(model)
    images = torch.randn(40, TOKENS, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pruner = Pruner(model, images[:1], 'L2', target=dict(ratio=0.4, scope='layer'))
    pruner.cut()
    assert model.attn.before.weight.shape == model.attn.behind.weight.shape == (2, 2)
    done = repair(pruner.mutator, dense, images)
    assert done.left == {}
    assert {'attn.before', 'attn.behind', 'attn.qkv', 'attn.proj'} <= set(done.layers)
    assert done.after < done.before
    assert type(dense.attn) is Talking
