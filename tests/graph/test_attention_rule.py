"""Multi-head attention of torch: what its projections cost, as a module and as a single function."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mmprune.graph.rules.layer import multi_head_attention
from mmprune.graph.rules.table import Call
from mmprune.graph.tracer import Tracer
from mmprune.report import proof
from mmprune.units.mutator import ChannelMutator

QUERIES, KEYS = 4, 16


class Cross(nn.Module):
    """A few queries attend to all positions of a map."""

    def __init__(self, queries=QUERIES, **dims):
        super().__init__()
        self.queries, self.embed, self.ask = queries, nn.Conv2d(3, 6, 1), nn.Linear(6, 6)
        self.key, self.value = (nn.Linear(6, dims.get(dim, 6)) for dim in ('kdim', 'vdim'))
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True, **dims)
        self.up, self.head = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        asked = x.repeat(1, 2, 1)[:, :self.queries]
        y = self.attention(self.ask(asked), self.key(x), self.value(x), need_weights=False)[0]
        return self.head(self.up(y).mean(1))


def mutator_of(model):
    torch.manual_seed(0)
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True),
                             dict(type='DemoInput', input_shape=(1, 3, 4, 4)))
    mutator.prepare(model)
    return mutator


@pytest.mark.parametrize(('queries', 'dims', 'inside'), [
    (QUERIES, {}, 36 * (QUERIES + 2 * KEYS)),
    (KEYS, {}, 36 * 3 * KEYS),
    (2 * KEYS, {}, 36 * (2 * KEYS + 2 * KEYS)),
    (QUERIES, dict(kdim=5, vdim=4), 6 * (6 * QUERIES + 5 * KEYS + 4 * KEYS))])
def test_each_projection_is_counted_as_often_as_its_input_has_rows(queries, dims, inside):
    mutator = mutator_of(Cross(queries, **dims))
    outside = 18 * KEYS + 36 * queries + 6 * (dims.get('kdim', 6) + dims.get('vdim', 6)) * KEYS + 48 * queries + 16
    assert mutator.cost['macs'] == outside + inside + 36 * queries  # the projection of the result
    acts = (6 + dims.get('kdim', 6) + dims.get('vdim', 6)) * KEYS + (6 + 8) * queries + 2
    assert mutator.cost['acts'] == acts + 6 * (queries + 2 * KEYS) + 6 * queries
    assert 'up_(0, 8)_8' in [unit.name for unit in mutator.units]
    assert {'heads', 'qk', 'v'} <= {unit.channels.part for unit in mutator.units}
    assert proof.unaccounted_layers(mutator) == []
    found = proof.prove(mutator)
    assert found.holds()
    assert found.macs[0] == found.macs[1]


def called(attention, *args, **kwargs):
    """Return what the rule records of a call."""
    tracer = Tracer(attention)
    out = F.multi_head_attention_forward(*args, **kwargs)
    multi_head_attention(tracer, Call('multi_head_attention_forward', args, kwargs, out))
    trace = tracer.result()
    return [(call.weight, call.positions, call.computed_weight) for call in trace.calls], [
        (axis.tensor, axis.role, len(axis.ids)) for axis in trace.axes]


def test_arguments_count_however_they_are_given():
    attention = nn.MultiheadAttention(6, 2)
    query, key = torch.randn(QUERIES, 1, 6), torch.randn(KEYS, 1, 6)
    arguments = dict(
        query=query, key=key, value=key, embed_dim_to_check=6, num_heads=2, in_proj_weight=attention.in_proj_weight,
        in_proj_bias=attention.in_proj_bias, bias_k=None, bias_v=None, add_zero_attn=False, dropout_p=0.0,
        out_proj_weight=attention.out_proj.weight, out_proj_bias=attention.out_proj.bias)
    by_keyword = called(attention, **arguments)
    assert by_keyword == called(attention, *arguments.values())
    rest = ('', KEYS - QUERIES, (6, 6))
    assert by_keyword[0] == [('in_proj_weight', QUERIES, None), ('out_proj.weight', QUERIES, None), rest, rest]
    assert by_keyword[1] == [('in_proj_weight', 'out', 18), ('in_proj_weight', 'in', 6), ('out_proj.weight', 'out', 6),
                             ('out_proj.weight', 'in', 6)]


def test_separate_weights_count_by_position_too():
    attention = nn.MultiheadAttention(6, 2, kdim=5, vdim=4)
    q, k, v = torch.randn(QUERIES, 1, 6), torch.randn(KEYS, 1, 5), torch.randn(KEYS, 1, 4)
    first = (q, k, v, 6, 2, None, attention.in_proj_bias, None, None, False, 0.0, attention.out_proj.weight,
             attention.out_proj.bias, False, None, False, None, True)
    weights = {f'{name}_proj_weight': getattr(attention, f'{name}_proj_weight') for name in 'qkv'}
    expected = [('q_proj_weight', QUERIES, None), ('k_proj_weight', KEYS, None), ('v_proj_weight', KEYS, None),
                ('out_proj.weight', QUERIES, None)]
    assert called(attention, *first, **weights)[0] == called(attention, *first, *weights.values())[0] == expected
