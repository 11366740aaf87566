"""torch's own attention: what ours computes, what is cut of one parameter for three projections, and what is tapped."""
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
from torch import nn

from mmprune import Pruner
from mmprune.group_fisher.mutator import GroupFisherChannelMutator
from mmprune.units.attention.taking_over import forward_for, give_back, take_over
from mmprune.units.equivalence import random_masks

PADDING = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
CAUSAL = torch.ones(6, 6, dtype=torch.bool).triu(1)
ARGUMENTS = {
    'nothing': {}, 'no weights': dict(need_weights=False), 'padding': dict(key_padding_mask=PADDING),
    'causal': dict(attn_mask=CAUSAL, is_causal=True, need_weights=False), 'bool mask': dict(attn_mask=CAUSAL),
    'both': dict(attn_mask=CAUSAL, key_padding_mask=PADDING, need_weights=False),
    'added': dict(
        attn_mask=torch.linspace(-1, 1, 36).double().view(6, 6), key_padding_mask=PADDING.double() * -2),
    'a mask for each head': dict(
        attn_mask=torch.linspace(-1, 1, 288).double().view(8, 6, 6), average_attn_weights=False)}


def tokens(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_equal(left, right):
    if left is None:
        assert right is None
    else:
        assert left.shape == right.shape
        assert torch.allclose(left, right, rtol=0, atol=1e-12)


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('batch_first', [True, False])
@pytest.mark.parametrize('widths', [None, (12, 10)])
def test_computes_what_torch_computes(widths, batch_first, training):
    kdim, vdim = widths or (16, 16)
    dense = random_model(lambda: nn.MultiheadAttention(16, 4, batch_first=batch_first, kdim=kdim, vdim=vdim))
    dense.train(training)
    ours = copy.deepcopy(dense)
    assert forward_for(ours) is not None
    take_over([ours])
    shape = (2, 6) if batch_first else (6, 2)
    inputs = [tokens(*shape, width, seed=width) for width in (16, kdim, vdim)]
    for given in (inputs, inputs[:1] * 3)[:1 if widths else 2]:
        for arguments in ARGUMENTS.values():
            expected, found = dense(*given, **arguments), ours(*given, **arguments)
            for left, right in zip(expected, found):
                assert_equal(left, right)
    alone = [x[0] if batch_first else x[:, 0] for x in inputs]
    for left, right in zip(dense(*alone), ours(*alone)):
        assert_equal(left, right)
    give_back([ours])
    assert {*ours._modules} == {*dense._modules}
    assert type(ours) is nn.MultiheadAttention


def test_tokens_of_its_own_stay():
    assert forward_for(nn.MultiheadAttention(8, 2, add_zero_attn=True)) is None
    assert forward_for(nn.MultiheadAttention(8, 2, add_bias_kv=True)) is None


class Translator(nn.Module):
    """An encoder, and a decoder that reads it; keys and values of the last attention have other widths."""

    def __init__(self, batch_first=True, dropout=0.0):
        super().__init__()
        options = dict(batch_first=batch_first, dropout=dropout)
        self.embed = nn.Linear(5, 16)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, **options), 2,
                                             enable_nested_tensor=batch_first)
        self.query = nn.Parameter(torch.randn(3, 1, 16).transpose(0, int(batch_first)))
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 24, **options), 1)
        self.keys, self.values = nn.Linear(16, 12), nn.Linear(16, 10)
        self.last = nn.MultiheadAttention(16, 4, kdim=12, vdim=10, batch_first=batch_first)
        self.out = nn.Linear(16, 4)
        self.batch_axis = 0 if batch_first else 1

    def forward(self, x, padding=None):
        memory = self.encoder(self.embed(x), src_key_padding_mask=padding)
        shape = [-1, -1, -1]
        shape[self.batch_axis] = x.size(self.batch_axis)
        found = self.decoder(self.query.expand(shape), memory, memory_key_padding_mask=padding)
        return self.out(self.last(found, self.keys(memory), self.values(memory), need_weights=False)[0])


def translate(model):
    return model(tokens(2, 6, 5), PADDING)


@pytest.fixture(scope='module')
def translator():
    return random_model(Translator)


@pytest.mark.filterwarnings('ignore:The PyTorch API of nested tensors')
def test_every_channel_of_a_transformer_is_in_a_unit(translator):
    modules = assert_swap_computes_the_same(translator, translate, tolerance=1e-7)  # torch's fast path rounds
    assert len(modules) == 2 + 2 + 1 + 1 + 2 * 2 + 3  # attentions, the encoder, norms
    mutator = prepared(copy.deepcopy(translator), translate)
    assert parts(mutator) == {'heads', 'qk', 'v', 'stream', ''}
    assert {channels.reason for channels in mutator.frozen} == {
        "it is the model's input, or comes from an operation without channels", 'it is an output of the model'}
    cut = assert_cut_equals_masked(mutator, translate)
    assert len(cut.encoder.layers[0].self_attn.in_proj_weight) < 48
    assert cut.last.out_proj.in_features < 16
    assert_structure_is_rebuilt(lambda: random_model(Translator), mutator, translate)


def test_batches_may_come_second():
    def forward(model):
        return model(tokens(6, 2, 5), PADDING)

    mutator = prepared(random_model(lambda: Translator(batch_first=False, dropout=0.1)), forward)
    assert parts(mutator) == {'heads', 'qk', 'v', 'stream', ''}
    assert_cut_equals_masked(mutator, forward, seeds=1)


@pytest.mark.filterwarnings('ignore:Converting mask without')  # torch 2.0's own
@pytest.mark.filterwarnings('ignore:The PyTorch API of nested tensors')
@pytest.mark.parametrize('mask', [PADDING, PADDING.flip(1)], ids=['behind', 'in front'])
@pytest.mark.parametrize('grad', [False, True])
def test_padding_is_zero_where_torch_makes_it_zero(translator, grad, mask):
    ours = copy.deepcopy(translator.encoder)
    take_over([module for module in ours.modules() if forward_for(module)])
    with torch.set_grad_enabled(grad):
        expected, found = (model(tokens(2, 6, 16), src_key_padding_mask=mask) for model in (translator.encoder, ours))
    assert torch.allclose(expected, found, rtol=0, atol=1e-6)
    assert bool((found[mask] == 0).all()) == (not grad and mask is PADDING)


def test_multiply_adds_are_those_that_run():
    flops = pytest.importorskip('torch.utils.flop_counter')
    mutator = prepared(random_model(Translator), lambda model: model(tokens(2, 6, 5)))
    for masks in ({unit.name: unit.kept for unit in mutator.units}, random_masks(mutator.units, 0.5, 0, 0.3)):
        mutator.cut(masks)
        with flops.FlopCounterMode(display=False) as counter:
            mutator.model.train()(tokens(2, 6, 5))
        found = counter.get_flop_counts()['Global']
        linear = sum(count // 2 for name, count in found.items() if str(name) in ('aten.mm', 'aten.addmm'))
        assert mutator.cost['macs'] == linear
        assert mutator.cost['params'] == sum(parameter.numel() for parameter in mutator.model.parameters())


def test_what_the_projections_read_is_tapped():
    """The recorded sum of activation times gradient is the gradient of a factor on every reading of a channel."""
    model = random_model(Translator)
    mutator = GroupFisherChannelMutator(dict(type='GroupFisherChannelUnit', mutate_linear=True,
                                             normalization_type='flops'))
    mutator.demo_input = lambda one: one(tokens(2, 6, 5))
    mutator.prepare(model)
    stream = mutator.units[0]
    start = mutator._start[stream.name]
    mutator.taps.record(True)
    model(tokens(2, 6, 5)).square().sum().backward()
    recorded = mutator.taps.take()
    found = sum(mutator.taps.per_set(recorded, torch.float64))[:, start:start + len(stream.kept)]
    mutator.accumulate(recorded)
    assert bool((mutator.scores()[stream.name] > 0).all())
    mutator.taps.record(False)
    factors = []

    def scale(module, args):
        factors.append(torch.ones(2, 1, 16, dtype=torch.float64, requires_grad=True))
        return (args[0] * factors[-1], *args[1:])

    weights = {member.axis.tensor for member in stream.channels.consumers}
    for layer, module in mutator.taps.layers.items():
        if mutator.taps.consumers.weights[layer] in weights:
            module.register_forward_pre_hook(scale)
    model(tokens(2, 6, 5)).square().sum().backward()
    assert len(factors) == 2 * 2 + (1 + 3 + 1) + (1 + 2)  # of encoder, decoder and what reads both
    assert torch.allclose(sum(factor.grad[:, 0] for factor in factors), found, rtol=0, atol=1e-12)


class Shown(nn.Module):
    """Hands its attention weights on, the mean over the heads."""

    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Linear(5, 16), nn.Linear(16, 3)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        x = self.embed(x)
        out, weights = self.attention(x, x, x)
        return self.out(out), weights


def test_heads_that_are_averaged_in_an_output_stay():
    mutator = prepared(random_model(Shown), lambda model: model(tokens(2, 6, 5)))
    assert parts(mutator) == {'qk', 'v', ''}
    assert_cut_equals_masked(mutator, lambda model: model(tokens(2, 6, 5)), seeds=1)


@pytest.mark.parametrize('criterion', ['APoZ', 'MeanActivation', 'Taylor', 'ThiNet'])
def test_criteria_see_what_the_projections_read(criterion):
    pruner = Pruner(Translator(), tokens(2, 6, 5).float(), criterion, target=dict(flops=0.7))
    pruner.calibrate([(tokens(2, 6, 5).float(), torch.zeros(2, 3, 4))], nn.functional.mse_loss)
    pruner.cut()
    assert pruner.mutator.structure[pruner.mutator.units[0].name] < 16


def test_the_reason_says_what_is_not_followed():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.attention, self.after = nn.Linear(6, 12), nn.MultiheadAttention(
                12, 3, add_zero_attn=True, batch_first=True), nn.Linear(12, 4)

        def forward(self, x):
            x = self.before(x)
            return self.after(self.attention(x, x, x)[0])

    with pytest.raises(ValueError, match='attention runs its own forward, since it adds tokens of its own to the keys'):
        Pruner(Net().eval(), torch.randn(2, 5, 6), 'L2')
