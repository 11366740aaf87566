"""A latency table: what it is made of, what it predicts, and how it travels."""
import json

import numpy as np
import pytest
import torch
from layer_runtime import FakeRuntime, Streams

from mmprune.latency import profiled
from mmprune.latency.channel_sum import ChannelSum, axis_sums, find_sum
from mmprune.latency.cost_terms import complexity_terms
from mmprune.latency.node_law import non_negative_least_squares
from mmprune.latency.profiled import measure_table, random_widths
from mmprune.latency.pruned_copy import PrunedCopy
from mmprune.latency.table import LatencyTable, LatencyTableError, read_table, write_table
from mmprune.latency.widths import levels_of
from mmprune.units.mutator import ChannelMutator

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BLOCK = 4


@pytest.fixture(scope='module')
def mutator():
    torch.manual_seed(0)
    made = ChannelMutator(dict(type='ChannelUnit'), dict(type='ExampleInputs', inputs=X))
    made.prepare(Streams())
    return made


@pytest.fixture(scope='module')
def table(mutator):
    return measure_table(mutator, FakeRuntime(), X, BLOCK, networks=24)


def structures(mutator, count, seed=5):
    return list(random_widths(mutator, BLOCK, count, seed))


def test_copy_has_the_shapes_of_a_cut_model_and_comes_back(mutator):
    before = {name: tensor.clone() for name, tensor in mutator.model.state_dict().items()}
    copy = PrunedCopy(mutator)
    for counts in structures(mutator, 4):
        model = copy.cut_to(counts)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        masks = {unit.name: np.arange(len(unit.kept)) < counts[unit.name] for unit in mutator.units}
        for (tensor, dim), size in mutator.surgery.widths_with(masks).items():
            assert shapes[tensor][dim] == size
        model(X)
    dense = copy.cut_to(copy.dense())
    assert {name: tensor.shape for name, tensor in dense.state_dict().items()} == {
        name: tensor.shape for name, tensor in before.items()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in mutator.model.state_dict().items())


def test_channels_of_a_tensor_are_found_by_its_sizes(mutator):
    sums = axis_sums(mutator)
    joined = sums['join.weight', 1]
    assert len(joined.parts) == 2
    drawn = structures(mutator, 8)
    for one in sums.values():
        for vector in (1, 8):
            sizes = [-(-one.of(counts) // vector) * vector for counts in drawn]
            found = find_sum(sizes, drawn, list(sums.values()))
            assert [-(-found.of(counts) // vector) * vector for counts in drawn] == sizes
    assert find_sum([7] * 8, drawn, list(sums.values())) == ChannelSum((), 7)
    assert find_sum([1, 2, 3, 4, 5, 6, 7, 8], drawn, list(sums.values())) is None


def test_least_squares_without_negative_coefficients():
    random = np.random.RandomState(0)
    matrix, true = random.rand(50, 4), np.array([0.0, 2.0, 0.0, 3.0])
    assert non_negative_least_squares(matrix, matrix @ true) == pytest.approx(true)
    held = non_negative_least_squares(matrix, matrix @ np.array([1.0, -1.0, 0.0, 1.0]))
    assert (held >= 0).all()


def test_prediction_is_the_time_of_networks_that_were_not_measured(mutator, table):
    runtime, copy = FakeRuntime(), PrunedCopy(mutator)
    assert table.calibration.largest_error < 5e-3
    assert table.calibration.r2 > 0.999
    for counts in structures(mutator, 6, seed=99):
        assert table.predict(counts) == pytest.approx(runtime.exact_ms(copy.cut_to(counts), X), rel=5e-3)
    assert table.dense_ms == runtime.exact_ms(copy.cut_to(copy.dense()), X)


def test_noise_of_the_machine_is_told(mutator):
    quiet = measure_table(mutator, FakeRuntime(noise=0.02, seed=0), X, BLOCK, networks=24)
    loud = measure_table(mutator, FakeRuntime(noise=0.5, seed=0), X, BLOCK, networks=24)
    assert quiet.calibration.largest_error < 0.08
    quiet.check_trusted()
    with pytest.raises(LatencyTableError, match='does nothing else'):
        loud.check_trusted()


def test_slow_sessions_of_a_short_network_are_measured_again(mutator, monkeypatch):
    """One session in thirty is slow, of a network or of the dense one beside it, as with two threads on two cores."""
    def errors():
        runtimes = [FakeRuntime(noise=0.01, seed=seed, slow=1 / 30) for seed in range(6)]
        return sorted(measure_table(mutator, one, X, BLOCK).calibration.largest_error for one in runtimes)

    assert errors()[-1] < 0.06
    monkeypatch.setattr(profiled, 'MOST_TURNS', 1)
    assert errors()[3] > 0.1


def test_terms_for_the_solver_add_up_to_the_prediction(mutator, table):
    names = [unit.name for unit in mutator.units]
    levels = [levels_of(len(unit.kept), 1, BLOCK) for unit in mutator.units]
    cost = table.cost(names, levels, budget=1.0)
    random = np.random.RandomState(3)
    for _ in range(20):
        choice = [int(random.randint(len(one))) for one in levels]
        counts = {name: one[place] for name, one, place in zip(names, levels, choice)}
        assert cost.total(choice) == pytest.approx(table.predict(counts))
    assert set(cost.pairs)  # layers between two units
    some = table.cost(names[:2], levels[:2], budget=1.0)  # the others stay whole
    assert some.total([len(levels[0]) - 1, 0]) == pytest.approx(table.predict({names[1]: levels[1][0]}))


@pytest.mark.parametrize('resource', ['macs', 'params', 'acts'])
def test_costs_of_a_structure_add_up_from_pairs(mutator, resource):
    names = [unit.name for unit in mutator.units]
    levels = [levels_of(len(unit.kept), 1, BLOCK) for unit in mutator.units]
    cost = complexity_terms(mutator, resource, names, levels).cost(0.0)
    for counts in structures(mutator, 6):
        masks = {unit.name: np.arange(len(unit.kept)) < counts[unit.name] for unit in mutator.units}
        wanted = mutator.complexity.cost(mutator.surgery.widths_with(masks))[resource]
        assert cost.total([one.index(counts[name]) for name, one in zip(names, levels)]) == pytest.approx(wanted)


def test_saving_of_a_unit_is_the_difference_of_predictions(mutator, table):
    counts = structures(mutator, 3)[-1]
    for unit in mutator.units:
        less = {**counts, unit.name: counts[unit.name] - BLOCK}
        assert table.saving(unit.name, counts, BLOCK) == pytest.approx(table.predict(counts) - table.predict(less))


def test_file_comes_back_the_same(mutator, table, tmp_path):
    write_table(table, tmp_path / 'table.json')
    again = read_table(tmp_path / 'table.json')
    assert again.to_json() == table.to_json()
    assert again.predict({}) == table.predict({})


@pytest.mark.parametrize(('change', 'message'), [
    (lambda value: [], 'is no latency table of format 2'),
    (lambda value: dict(value, format=3), 'is no latency table of format 2'),
    (lambda value: {key: one for key, one in value.items() if key != 'laws'}, 'is damaged'),
    (lambda value: dict(value, calibration=dict(offset=1)), 'is damaged'),
])
def test_a_damaged_file_is_refused(table, tmp_path, change, message):
    path = tmp_path / 'table.json'
    path.write_text(json.dumps(change(table.to_json())))
    with pytest.raises(LatencyTableError, match=message):
        read_table(path)


def test_a_table_of_something_else_is_refused_with_the_reason(table):
    own = dict(runtime=table.runtime, input_shape=table.input_shape, units=table.units, source='x.json')
    table.check_is_of(**own)
    for change, message in ((dict(runtime=dict(table.runtime, threads=3)), 'threads is 1 there and 3 here'),
                            (dict(input_shape=(1, 3, 16, 16)), r'\(1, 3, 8, 8\) there and \(1, 3, 16, 16\) here'),
                            (dict(units={**table.units, 'other': 3}), "such as 'other'")):
        with pytest.raises(LatencyTableError, match=message):
            table.check_is_of(**{**own, **change})


def test_what_the_device_does_besides_is_added(mutator):
    table = measure_table(mutator, FakeRuntime(), X, BLOCK, networks=8, rest_ms=5.0)
    assert table.dense_total_ms == table.dense_ms + 5
    assert table.predict({}) > 5
    assert isinstance(LatencyTable.from_json(table.to_json()), LatencyTable)
