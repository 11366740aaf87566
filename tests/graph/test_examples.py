"""Several examples, united in one trace; branches that none of them takes; what a trace leaves behind."""
import functools
import gc
import random
import threading
import weakref
from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from mmprune import Pruner
from mmprune.graph import capture
from mmprune.graph.demo_input import DemoInput, ExampleInputs
from mmprune.units.mutator import ChannelMutator, NoPrunableUnitError
from mmprune.units.trial import complement

IMAGE = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Auxiliary(nn.Module):
    """A second head that runs when it is asked for."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.aux = nn.Sequential(nn.Conv2d(6, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1))

    def forward(self, x, aux=False):
        x = self.a(x).relu()
        return (self.head(x), self.aux(x)) if aux else self.head(x)


def test_a_branch_that_no_example_takes_is_named(monkeypatch):
    said = []
    monkeypatch.setattr(capture, 'print_log', lambda text, **options: said.append(text))
    pruner = Pruner(Auxiliary(), IMAGE, ratio=0.5)
    assert said[0].startswith("2 conv and linear layers of Auxiliary never run on the demo input: 'aux'. What they")
    assert [unit.name for unit in pruner.mutator.units] == ['a_(0, 6)_6']


def test_several_examples_are_one_trace(monkeypatch):
    said = []
    monkeypatch.setattr(capture, 'print_log', lambda text, **options: said.append(text))
    model = Auxiliary().double()
    pruner = Pruner(model, [(IMAGE,), dict(x=IMAGE, aux=True)], ratio=0.5)
    assert said == []
    assert {unit.name: unit.num_sets for unit in pruner.mutator.units} == {'a_(0, 6)_6': 6, 'aux.0_(0, 5)_5': 5}
    once = 64 * (3 * 6 + 6 * 2)
    assert pruner.mutator.cost['macs'] == once + 64 * (6 * 5 + 5 * 2)  # each layer once, though two examples run it
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    masked = pruner.mask()(x, aux=True)
    for before, after in zip(masked, pruner.cut()(x, aux=True)):
        torch.testing.assert_close(after, before, rtol=1e-10, atol=1e-12)


def test_demo_inputs_of_a_config_can_be_several():
    mutator = ChannelMutator(dict(type='ChannelUnit'), [dict(type='DemoInput', input_shape=(1, 3, 8, 8)), dict(
        type='DemoInput', input_shape=(1, 3, 8, 8), arguments=dict(aux=True))])
    mutator.prepare(Auxiliary())
    assert [unit.name for unit in mutator.units] == ['a_(0, 6)_6', 'aux.0_(0, 5)_5']
    with pytest.raises(ValueError, match='it must be a list of demo inputs or their configs, of one at least'):
        ChannelMutator(demo_input=[dict(type='SeveralInputs', inputs=[])])


class Remembering(nn.Module):
    """Keeps caches, counters and a lock, as some networks do."""

    def __init__(self):
        super().__init__()
        self.a, self.bias, self.b = nn.Conv2d(3, 6, 1), nn.Parameter(torch.ones(6)), nn.Conv2d(6, 2, 1)
        self.cache, self.calls, self.width, self.lock = {}, [], 6, threading.Lock()
        self.activation = torch.jit.script(torch.nn.functional.relu)

    def forward(self, x):
        with self.lock:
            self.cache[x.shape] = self.bias[None, :, None, None] * 1
            self.calls.append(self.width)
            self.last = x
        return self.b(self.activation(self.a(x)) + self.cache[x.shape])


def test_a_trace_leaves_nothing_in_the_model():
    model = Remembering()
    model.cache['before'] = 1
    cache, kept = model.cache, set(vars(model))
    pruner = Pruner(model, IMAGE, ratio=0.5)
    assert (model.cache, model.calls, type(model.width)) == ({'before': 1}, [], int)
    assert model.cache is cache
    assert set(vars(model)) == kept
    assert [unit.name for unit in pruner.mutator.units] == ['a_(0, 6)_6']


def test_written_sizes_are_plain_again_after_an_error():
    class Fails(Remembering):
        def forward(self, x):
            raise RuntimeError('no forward')

    model = Fails()
    with pytest.raises(RuntimeError, match='no forward'):
        Pruner(model, IMAGE, ratio=0.5)
    assert type(model.width) is int


def test_building_draws_from_no_global_generator():
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    model = Auxiliary()  # a head that never runs, so that the training branches are traced too
    model.head = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(6, 2, 1))
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    Pruner(model, IMAGE, ratio=0.5)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


@pytest.mark.parametrize('image', [torch.ones(1, 3, 8, 8), torch.rand(1, 3, 8, 8), torch.ones(2, 3, 8, 8)])
def test_the_trial_sees_two_different_samples(image):
    rows = ExampleInputs(image).for_trial()[-1].inputs
    assert len(rows) == 2
    assert not torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], image[0])
    assert abs(float(rows[0].mean() - rows[1].mean())) > 1e-6


def test_integers_and_masks_of_a_second_sample_are_repeated():
    mask, tokens = torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[5, 7]])
    rows = ExampleInputs((mask, tokens)).for_trial()[-1].inputs
    assert [row.tolist() for row in rows] == [mask.repeat(2, 1).tolist(), tokens.repeat(2, 1).tolist()]


class Pooled(nn.Module):
    """A batch norm on 1 x 1 maps, where two equal samples have no variance."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.norm(self.b(self.a(x).relu().mean((2, 3), keepdim=True))).flatten(1))


@pytest.mark.parametrize('image', [torch.ones(1, 3, 8, 8), torch.randn(1, 3, 8, 8)])
def test_a_norm_behind_global_pooling_freezes_nothing(image):
    pruner = Pruner(Pooled(), image, ratio=0.5)
    assert [unit.name for unit in pruner.mutator.units] == ['a_(0, 8)_8', 'b_(0, 6)_6']


def test_two_demo_images_differ():
    rows = DemoInput((1, 3, 8, 8)).for_trial()[-1].tensor(nn.Conv2d(3, 3, 1))
    assert len(rows) == 2
    assert not torch.equal(rows[0], rows[1])


class Normalised(nn.Module):
    """Divides by the largest value, read by Python: it depends on which channels are there."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.a(x).relu()
        return self.head(self.b(x / x.abs().max().item()).relu())


@pytest.mark.parametrize('seed', [0, 8, 23])
def test_a_value_of_all_channels_that_python_gives_back_is_found_by_the_trial(seed):
    torch.manual_seed(seed)
    assert [unit.name for unit in Pruner(Normalised(), IMAGE, ratio=0.5).mutator.units] == ['b_(0, 8)_8']


def test_every_set_has_gone_once_in_a_trial():
    masks = {'a': np.array([True, False, True]), 'b': np.array([True, True])}
    other = complement(masks)
    assert [mask.tolist() for mask in other.values()] == [[False, True, False], [True, False]]


class Newton(nn.Module):
    """Many steps with a value of all channels."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.a(x)
        value = x.square().mean()
        root = torch.ones_like(value)
        for _ in range(40):
            root = 0.5 * (root + value / root)
        return self.head(x / root)


def test_reasons_that_wait_do_not_multiply():
    with pytest.raises(NoPrunableUnitError, match='mean reduces over the channel axis'):
        Pruner(Newton(), IMAGE, ratio=0.5)


class Counting(nn.Module):
    """Counts in a buffer, keeps a queue, and refers to itself."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        self.register_buffer('steps', torch.zeros(1))
        self.queue, self.circle = deque([1]), {}
        self.circle['self'] = self.circle

    def forward(self, x):
        self.steps += 1
        self.register_buffer('late', x.detach())
        self.queue.append(x)
        return self.head(self.a(x))


def test_buffers_and_queues_are_put_back():
    model = Counting()
    Pruner(model, IMAGE, ratio=0.5)
    assert (model.steps.tolist(), list(model.queue), list(model._buffers)) == ([0.0], [1], ['steps'])


class Particular(nn.Module):
    """Looks at the very type of an integer."""

    def __init__(self):
        super().__init__()
        self.a, self.head, self.window = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1), 2

    def forward(self, x):
        window = (self.window, self.window) if type(self.window) == int else None  # noqa: E721
        return self.head(nn.functional.max_pool2d(self.a(x), window))


def test_a_forward_that_looks_at_types_is_traced_with_plain_numbers():
    assert [unit.name for unit in Pruner(Particular(), IMAGE, ratio=0.5).mutator.units] == ['a_(0, 6)_6']


@functools.lru_cache(maxsize=None)
def remembered(size):
    """Return an equal number of whatever model came first."""
    return size


class Cached(nn.Module):
    """Takes a size through a cache that all models share."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head, self.first = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 2, 1), 4

    def forward(self, x):
        x = self.a(x)
        x = torch.cat([x[:, :remembered(self.first)].relu(), x[:, remembered(self.first):]], 1)
        return self.head(self.b(x).relu())


def test_sizes_of_another_model_in_a_cache_are_numbers():
    for _ in range(2):
        model = Cached()
        reference = weakref.ref(model)
        pruner = Pruner(model, IMAGE, ratio=0.5)
        masked = pruner.mask().double()(IMAGE.double())
        torch.testing.assert_close(pruner.cut()(IMAGE.double()), masked)
        del model, pruner
        gc.collect()
        assert reference() is None


class Gradient(nn.Module):
    """Returns the gradient of an energy, computed in its forward."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1), nn.Conv2d(2, 2, 1)

    def forward(self, x):
        with torch.enable_grad():
            scale = torch.ones(1, dtype=x.dtype, requires_grad=True)
            slope, = torch.autograd.grad((scale ** 2).sum(), scale)
        return self.head(self.b(self.a(x).sigmoid())) * slope.detach()


def test_a_forward_that_computes_gradients_is_traced():
    assert [unit.name for unit in Pruner(Gradient(), IMAGE, ratio=0.5).mutator.units] == ['a_(0, 6)_6', 'b_(0, 2)_2']


@pytest.mark.parametrize(('size', 'shapes'), [
    ((1, 3, 224, 320), [(1, 3, 128, 192), (2, 3, 128, 192), (1, 3, 224, 320), (2, 3, 224, 320)]),
    ((1, 3, 128, 128), [(1, 3, 128, 128), (2, 3, 128, 128)]), ((1, 3, 300), [(1, 3, 300), (2, 3, 300)])])
def test_the_trial_takes_a_part_of_large_images_first(size, shapes):
    given = ExampleInputs(torch.randn(size))
    offered = given.for_trial()
    assert [tuple(one.inputs.shape) for one in offered] == shapes
    assert [one.stands_for is given for one in offered] == [one.inputs.shape[2:] != given.inputs.shape[2:]
                                                            for one in offered]


def test_images_of_several_sizes_and_other_tensors_stay_whole():
    for inputs in ((torch.randn(1, 3, 160, 160), torch.randn(1, 3, 80, 80)),
                   {'x': torch.randn(1, 3, 160, 160), 'mask': torch.ones(1, 160, 160)}):
        assert all(one.stands_for is None for one in ExampleInputs(inputs).for_trial())


class Large(nn.Module):
    """Writes the size of its channels down in what it does to large images only."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        wide = x.shape[-1] > 150
        x = self.a(x)
        if wide:
            x = x.reshape(len(x), 6, -1).reshape(x.shape)
        return self.head(self.b(x))


@pytest.mark.parametrize('several', [False, True])
@pytest.mark.parametrize(('size', 'units'), [(160, ['b_(0, 4)_4']), (144, ['a_(0, 6)_6', 'b_(0, 4)_4'])])
def test_a_model_that_does_something_else_with_large_images_is_tried_with_these(size, units, several):
    example = torch.randn(1, 3, size, size)
    pruner = Pruner(Large(), [(example,)] if several else example, ratio=0.5)
    assert [unit.name for unit in pruner.mutator.units] == units


def test_a_layer_whose_weight_another_module_uses_has_run():
    class Borrows(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.runs = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1), 0

        def forward(self, x):
            self.count()
            return self.b(nn.functional.conv2d(x, self.a.weight, self.a.bias))

    runs = []
    model = Borrows()
    model.count = lambda: runs.append(1)
    capture.trace_model(model, lambda net: net(IMAGE))
    assert len(runs) == 1  # the training branches are not looked for
