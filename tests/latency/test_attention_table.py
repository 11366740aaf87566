"""Heads and dimensions in a latency table: sizes of tensors, terms for the solver, nodes of an exported network."""
import numpy as np
import pytest
import torch
from tiny_transformer import TinyViT, images
from torch import nn

from mmprune import Pruner
from mmprune.deploy.runtimes.onnx_runtime import OnnxRuntime
from mmprune.deploy.runtimes.runtime import NodeTime
from mmprune.latency.channel_sum import ChannelSum, axis_sums, channel_sums, crossed
from mmprune.latency.cost_terms import CostTerms, complexity_terms
from mmprune.latency.node_law import NodeLaw
from mmprune.latency.profiled import PRODUCTS, Measured, named, observed_nodes, random_widths
from mmprune.latency.pruned_copy import PrunedCopy
from mmprune.latency.table import Calibration, LatencyTable, LatencyTableError
from mmprune.latency.widths import levels_of
from mmprune.units.attention.product import AttentionProduct
from mmprune.units.complexity import COSTS, amount


@pytest.fixture(scope='module')
def mutator():
    torch.manual_seed(0)
    return Pruner(TinyViT(), images().float()).mutator


@pytest.fixture(scope='module')
def table(mutator):
    """Return the table of a runtime in which a layer takes its multiply-adds, and so does every product."""
    sums, random = axis_sums(mutator), np.random.RandomState(0)
    laws = [NodeLaw(name, 'Gemm', sums[name, 1], sums[name, 0], random.rand(4))
            for name in sorted({tensor for tensor, _ in sums}) if (name, 0) in sums and (name, 1) in sums]
    for heads, qk, v in attentions(mutator):
        laws += [NodeLaw(f'{heads} {dims}', 'MatMul', factors(heads), factors(dims), random.rand(4) * 5)
                 for dims in (qk, v)]
    units = {unit.name: len(unit.kept) for unit in mutator.units}
    return LatencyTable({}, (1, 3, 8, 8), units, 1, 100.0, laws, Calibration(1.0, 2.0, 1.0, 0.0), 8)


def factors(*units):
    return ChannelSum((), 0, ((1, units), ))


def attentions(mutator):
    """Return the names of heads, query-key and value dimensions of every attention."""
    return list(zip(*([unit.name for unit in mutator.units if unit.channels.part == part]
                      for part in ('heads', 'qk', 'v'))))


def test_sizes_of_tensors_are_those_of_a_cut_model(mutator):
    sums, copy = axis_sums(mutator), PrunedCopy(mutator)
    heads, qk, v = attentions(mutator)[0]
    assert sums['blocks.0.attn.qkv.weight', 0] == ChannelSum((), 0, ((1, (heads, v)), (2, (heads, qk))))
    drawn = list(random_widths(mutator, 1, 12))
    assert len({counts[heads] for counts in drawn}) > 1
    for counts in drawn:
        shapes = {name: tensor.shape for name, tensor in copy.cut_to(counts).state_dict().items()}
        for (tensor, dim), size in sums.items():
            if tensor in shapes:
                assert size.of(counts) == shapes[tensor][dim], (tensor, dim)


def turns(mutator):
    """Return the units of both turns: all but heads, all but their dimensions."""
    part = {unit.name: unit.channels.part for unit in mutator.units}
    return [[name for name in part if part[name] != 'heads'], [name for name in part if part[name] not in ('qk', 'v')]]


def chosen(mutator, names, random):
    """Return levels of units, a random choice, and the structure with it; other units are as drawn too."""
    units = {unit.name: unit for unit in mutator.units}
    levels = [levels_of(len(units[name].kept), 1, 1) for name in names]
    choice = [int(random.randint(len(one))) for one in levels]
    present = {name: int(random.randint(1, len(unit.kept) + 1)) for name, unit in units.items() if name not in names}
    return levels, choice, present, {**present, **{name: one[at] for name, one, at in zip(names, levels, choice)}}


@pytest.mark.parametrize('turn', [0, 1])
def test_terms_of_a_turn_add_up_to_the_prediction(mutator, table, turn):
    names, random = turns(mutator)[turn], np.random.RandomState(turn)
    for _ in range(10):
        levels, choice, present, counts = chosen(mutator, names, random)
        assert table.cost(names, levels, 1.0, present).total(choice) == pytest.approx(table.predict(counts))


@pytest.mark.parametrize('turn', [0, 1])
@pytest.mark.parametrize('resource', ['flops', 'params'])
def test_costs_of_a_turn_add_up_to_those_of_the_structure(mutator, resource, turn):
    names, random = turns(mutator)[turn], np.random.RandomState(turn)
    for _ in range(10):
        levels, choice, present, counts = chosen(mutator, names, random)
        masks = {unit.name: np.arange(len(unit.kept)) < counts[unit.name] for unit in mutator.units}
        wanted = amount(mutator.complexity.cost(mutator.surgery.widths_with(masks)), resource)
        cost = complexity_terms(mutator, COSTS[resource], names, levels, present).cost(0.0)
        assert cost.total(choice) == pytest.approx(wanted)


def test_saving_of_heads_and_file(mutator, table):
    heads, qk, _ = attentions(mutator)[0]
    for unit in (heads, qk):
        less = {unit: table.units[unit] - 1}
        saved = table.predict({}) - table.predict(less)
        assert 0 < saved == pytest.approx(table.saving(unit, {}, 1))
    again = LatencyTable.from_json(table.to_json())
    assert again.to_json() == table.to_json()
    message = '^the latency table was written when tables knew nothing of heads; measure it again$'
    with pytest.raises(LatencyTableError, match=message):
        LatencyTable.from_json(dict(table.to_json(), format=1))
    assert again.predict({heads: 1, qk: 2}) == table.predict({heads: 1, qk: 2}) < table.predict({heads: 1})


class Shared(nn.Module):
    """Rotary positions, and keys and values of half as many heads: one attention over 5 tokens."""

    def __init__(self, heads=6, kv_heads=3, size=8, dim=24):
        super().__init__()
        self.stem, self.proj = nn.Linear(3, dim), nn.Linear(heads * size, 5)
        self.qkv = nn.Linear(dim, (heads + 2 * kv_heads) * size)
        self.product = AttentionProduct(heads, size, size, kv_heads=kv_heads, rotary=True)
        angles = torch.randn(5, size // 2).repeat(1, 2)
        self.register_buffer('cos', angles.cos())
        self.register_buffer('sin', angles.sin())

    def forward(self, x):
        return self.proj(self.product(self.qkv(torch.relu(self.stem(x))), angles=(self.cos, self.sin)))


def observed(mutator, x, folder):
    """Return networks of random widths as onnxruntime profiles them, and name -> node."""
    runtime, copy, measured = OnnxRuntime(threads=1), PrunedCopy(mutator), []
    for counts in random_widths(mutator, 1, 16):
        source = runtime.prepare(copy.cut_to(counts), x, folder / 'network.onnx')
        measured.append(Measured(counts, named(runtime.profiled(source, x, 4)), 1.0))
    return measured, {node.name: node for node in observed_nodes(measured, channel_sums(mutator))}


def test_nodes_of_grouped_queries_with_rotary_positions(tmp_path):
    pytest.importorskip('onnxruntime')
    x = torch.randn(1, 5, 3)
    mutator = Pruner(Shared(), x).mutator
    measured, nodes = observed(mutator, x, tmp_path)
    heads, qk, v = attentions(mutator)[0]
    crossed = {(node.reads, node.writes) for node in nodes.values() if node.op in PRODUCTS}
    queries, pairs = ChannelSum((), 0, ((2, (heads, )), )), ChannelSum((), 0, ((2, (qk, )), ))
    assert {(pairs, queries), (queries, factors(v))} <= crossed
    assert {name for name, node in measured[0].nodes.items() if node.op in (*PRODUCTS, 'Softmax')} <= {*nodes}


def test_nodes_of_an_exported_network_are_known_by_their_sizes(mutator, tmp_path):
    pytest.importorskip('onnxruntime')
    measured, nodes = observed(mutator, images().float(), tmp_path)
    products = [name for name, node in measured[0].nodes.items() if node.op in PRODUCTS]
    assert len(products) >= 2 * 6 + 1  # queries with keys and values, the projection, two of the MLP; the head
    for name in products:
        for one in measured:
            of, node = one.nodes[name], nodes[name]
            found = [sum_.of(one.counts) for sum_ in (node.reads, node.writes) if sum_.units]
            assert found, name
            assert {*found} <= {of.inputs[0][-1], *of.outputs[0]}, name
    heads, qk, v = attentions(mutator)[0]
    crossed = {(node.reads, node.writes) for node in nodes.values() if node.name in products}
    assert {(factors(qk), factors(heads)), (factors(heads), factors(v))} <= crossed


def test_products_of_sums_by_hand():
    heads, dims, stream = factors('h'), factors('d'), ChannelSum((('s', 2), ))
    counts = dict(h=3, d=5, s=7)
    assert crossed([]) == ChannelSum(())
    assert crossed([stream]) is stream
    assert crossed([heads, dims, dims]).of(counts) == 3 * 5 * 5
    assert crossed([heads, stream]).of(counts) == 3 * 14
    assert crossed([heads, ChannelSum((('s', 1), ), 1)]) is None
    assert crossed([heads, None]) is None


def test_a_unit_counts_by_its_square_where_it_is_named_twice():
    square = crossed([factors('h'), factors('d'), factors('d')])
    terms = CostTerms(['d', 's'], [[1, 2, 5], [3, 4]], dict(h=3, d=5, s=4))
    terms.add((1.0, 0.0, 2.0, 10.0), ChannelSum((('s', 1), )), square)
    cost = terms.cost(0.0)
    for at, dims in enumerate((1, 2, 5)):
        for other, stream in enumerate((3, 4)):
            assert cost.total([at, other]) == 1 + 2 * 3 * dims ** 2 + 10 * stream * 3 * dims ** 2


def test_nodes_of_a_linear_attention():
    """``q (k v)``: the sum over dimensions of queries, of heads times dimensions of values; ``q' k`` has the square."""
    sums = [factors(unit) for unit in 'hqv']
    drawn = [dict(h=1 + i % 3, q=4 + 3 * i % 7, v=2 + 5 * i % 11) for i in range(8)]
    shapes = [[((1, one['h'], 9, one['q']), (1, one['h'], 9, one['v'])),
               ((1, one['h'], one['q'], 9), (1, one['h'], one['q'], one['q']))] for one in drawn]
    measured = [Measured(one, {name: NodeTime(name, 'MatMul', 1.0, (read, ), (write, ))
                               for name, (read, write) in zip('ab', both)}, 2.0) for one, both in zip(drawn, shapes)]
    first, second = observed_nodes(measured, sums)
    assert (first.reads, first.writes) == (factors('q'), factors('h', 'v'))
    assert (second.reads, second.writes) == (factors('h'), factors('q', 'q'))
