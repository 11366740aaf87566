"""The trial cut: what it finds, what it says, what it costs nothing, and when it is left out."""
from collections import deque

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mmprune.graph.capture import trace_model
from mmprune.graph.demo_input import DemoInput
from mmprune.models.prune_deploy_sub_model import GroupFisherDeploySubModel
from mmprune.registry import TASK_UTILS
from mmprune.report.proof import verify
from mmprune.units import trial
from mmprune.units.mutator import ChannelMutator, NoPrunableUnitError


class Block(nn.Module):
    """Two convs; between them a split into halves of a size that is written down."""

    def __init__(self, fixed):
        super().__init__()
        self.fixed = fixed
        self.one, self.two = nn.Conv2d(8, 6, 1), nn.Conv2d(3, 8, 1)

    def forward(self, x):
        y = self.one(x)
        left, right = y.split(3 if self.fixed else y.size(1) // 2, 1)
        return x + self.two(torch.tanh(left * right))


class Blocks(nn.Module):
    def __init__(self, *fixed):
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3, 8, 1), nn.Sequential(*map(Block, fixed)), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)))


def mutator_of(net, size=8, **options):
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True),
                             dict(type='DemoInput', input_shape=(1, 3, size, size)), **options)
    mutator.prepare(net)
    return mutator


@pytest.mark.parametrize('fixed', [(True,), (False, True, False, False, True, True, False), (True,) * 5])
def test_bisecting_finds_exactly_the_units_at_fault(fixed):
    mutator = mutator_of(Blocks(*fixed))
    good = [f'blocks.{n}.one_(0, 6)_6' for n, bad in enumerate(fixed) if not bad]
    assert [unit.name for unit in mutator.units] == ['stem_(0, 8)_8', *good]
    reasons = {channels.name: channels.reason for channels in mutator.frozen}
    for n, bad in enumerate(fixed):
        if bad:
            assert reasons[f'blocks.{n}.one_(0, 6)_6'].startswith(
                f"cutting it breaks the forward of module 'blocks.{n}'")
    assert verify(mutator)['max_relative_difference'] < 1e-12


class Counts(nn.Module):
    """A value that depends on how many channels there are, in training only."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x):
        x = self.b(torch.tanh(self.a(x)))
        return self.c(x * x.size(1) if self.training else x)


def test_train_mode_is_tried_too_and_the_first_layer_is_named():
    mutator = mutator_of(Counts())
    reason, = (channels.reason for channels in mutator.frozen if channels.name == 'b_(0, 5)_5')
    assert reason.startswith('cutting it changes what the model computes by ')
    assert "(first seen in layer 'c')" in reason
    assert [unit.name for unit in mutator.units] == ['a_(0, 6)_6']


def test_neither_model_nor_random_state_change():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 2, 1))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    mutator_of(net)
    assert torch.equal(torch.rand(4), wanted)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_what_is_drawn_at_random_does_not_count():
    class Drops(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            x = F.dropout2d(F.dropout(self.a(x), 0.5, self.training), 0.5, self.training)
            return self.b(x * (torch.rand(len(x), 1, 1, 1) > 0.3))

    assert [unit.name for unit in mutator_of(Drops()).units] == ['a_(0, 6)_6']


def test_a_model_that_does_not_run_small_is_tried_at_its_size():
    shapes = [demo.input_shape for demo in DemoInput((1, 3, 1333, 800)).for_trial()]
    assert shapes == [(1, 3, 224, 128), (2, 3, 224, 128), (1, 3, 1333, 800), (2, 3, 1333, 800)]
    assert [demo.input_shape for demo in DemoInput((4, 3, 96, 96)).for_trial()] == [(1, 3, 96, 96), (4, 3, 96, 96)]
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1), nn.AvgPool2d(32), nn.Flatten(), nn.Linear(3 * 25, 2))
    assert [unit.name for unit in mutator_of(net, 160).units] == ['0_(0, 4)_4', '1_(0, 3)_3']


def test_a_mode_in_which_the_dense_model_does_not_run_is_left_out(monkeypatch):
    class EvalOnly(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x):
            if self.training:
                raise NotImplementedError('inference only')
            return self.b(self.a(x))

    said = []
    monkeypatch.setattr(trial, 'print_log', lambda text, **options: said.append(text))
    assert [unit.name for unit in mutator_of(EvalOnly()).units] == ['a_(0, 6)_6']
    assert said == ['EvalOnly does not run on the demo input in train mode (NotImplementedError: inference only): the '
                    'trial cut compares eval mode only']


def test_no_trial_where_a_structure_proves_the_units_or_the_user_says_so(monkeypatch):
    tried = []
    failure = trial.TrialCut.failure
    monkeypatch.setattr(trial.TrialCut, 'failure',
                        lambda self, units: tried.append([unit.name for unit in units]) or failure(self, units))
    demo = dict(type='DemoInput', input_shape=(1, 3, 8, 8))
    stem, first, second = 'stem_(0, 8)_8', 'blocks.0.one_(0, 6)_6', 'blocks.1.one_(0, 6)_6'
    GroupFisherDeploySubModel(Blocks(False, False), {stem: 4, first: 2, second: 2}, demo_input=demo)
    mutator_of(Blocks(False, True), trial_cut=False)
    assert tried == []
    mutator_of(Blocks(False, False))
    assert tried == [[stem, first, second]]
    tried.clear()
    GroupFisherDeploySubModel(Blocks(False, True), {stem: 4, first: 2}, demo_input=demo)
    assert tried == [[second]]  # the one that the prune run had frozen
    part = GroupFisherDeploySubModel(Blocks(False, False), {stem: 4, first: 2}, demo_input=demo)
    assert part.blocks[1].one.out_channels == 6  # a unit that the structure lacks stays whole


def test_a_demo_input_of_ones_own_needs_no_trial_method():
    @TASK_UTILS.register_module(force=True)
    class TwoImages:
        def __call__(self, model):
            parameter = next(model.parameters())
            return model(torch.ones(2, 3, 4, 4, dtype=parameter.dtype))

    mutator = ChannelMutator(demo_input=dict(type='TwoImages'))
    mutator.prepare(Blocks(True))
    assert [unit.name for unit in mutator.units] == ['stem_(0, 8)_8']
    TASK_UTILS._module_dict.pop('TwoImages')


class Faint(nn.Module):
    """A value that depends on the number of channels, behind so many convs that the outputs hardly show it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.body = nn.Sequential(*(nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sigmoid()) for _ in range(12)))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.a(x)
        return self.head(self.body(self.b(x / x.shape[1])))


def test_layers_are_compared_not_only_outputs():
    reason, = (channels.reason for channels in mutator_of(Faint()).frozen if channels.name == 'a_(0, 8)_8')
    assert "first seen in layer 'b'" in reason


def test_rounding_of_a_very_deep_net_is_no_difference():
    layers = [layer for _ in range(60) for layer in (nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())]
    mutator = mutator_of(nn.Sequential(nn.Conv2d(3, 16, 1), *layers, nn.Conv2d(16, 2, 1)))
    assert len(mutator.units) == 61


class Ending(nn.Module):
    """Outputs that cannot be subtracted: positions, masks, infinities, in objects of every kind."""

    def __init__(self, end):
        super().__init__()
        self.a, self.b, self.end = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1), end

    def forward(self, x):
        x = self.a(x)
        return self.end(self.b(x), x)


class Slots:
    __slots__ = ('value',)

    def __init__(self, value):
        self.value = value


class Called:
    def __init__(self, value):
        self.value, self.me = value, self

    def __call__(self):
        return self.value


@pytest.mark.parametrize('end', [
    lambda y, x: y.masked_fill(y > 0, float('-inf')), lambda y, x: y.argmax(1), lambda y, x: y > 0,
    lambda y, x: torch.fft.fft2(y)], ids=['infinite', 'positions', 'mask', 'complex'])
def test_outputs_of_every_dtype_are_compared(end):
    assert [unit.name for unit in mutator_of(Ending(end)).units] == ['a_(0, 6)_6']


@pytest.mark.parametrize('keep', [lambda x: {'f': Slots(x)}, lambda x: deque([x]), Called, lambda x: (None, [x])],
                         ids=['slots', 'deque', 'callable', 'nest'])
def test_outputs_in_objects_of_every_kind_stay(keep):
    with pytest.raises(NoPrunableUnitError, match=r'a_\(0, 6\)_6: it is an output of the model'):
        mutator_of(Ending(lambda y, x: (y, keep(x))))


def test_a_model_whose_name_says_drop_is_still_trained():
    raindrop = type('RaindropNet', (Counts,), {})
    assert [unit.name for unit in mutator_of(raindrop()).units] == ['a_(0, 6)_6']


@pytest.mark.filterwarnings('ignore:Lazy modules are a new feature')
def test_uninitialised_parameters_are_told():
    with pytest.raises(ValueError, match="module '0' has parameters that are not initialised yet: run the model once"):
        mutator_of(nn.Sequential(nn.LazyConv2d(4, 1), nn.Conv2d(4, 2, 1)))


def test_scripted_and_compiled_parts():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 1), nn.Conv2d(5, 2, 1)
            self.gate = torch.jit.script(nn.Sigmoid())

        def forward(self, x):
            return self.c(self.b(self.gate(self.a(x))))

    assert [unit.name for unit in mutator_of(Outer()).units] == ['a_(0, 6)_6', 'b_(0, 5)_5']


def test_pixel_shuffle_of_a_large_map_stays_cheap():
    net = nn.Sequential(nn.Conv2d(3, 64, 1), nn.PixelShuffle(2), nn.PReLU(16), nn.Conv2d(16, 2, 1))
    traced = trace_model(net, lambda model: model(torch.zeros(1, 3, 64, 64)))
    assert max(grid.ids.size for grid in traced.grids) <= 64
    assert sum(left.size for left in traced.ties[:1]) < 2000


class PadsOdd(nn.Module):
    """A layer that brings what it reads to an even width, as code that halves it does."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x):
        return self.norm(F.pad(x, (0, 0, 0, 0, 0, x.size(1) % 2)))


def test_every_unit_is_cut_to_an_odd_width():
    net = nn.Sequential(nn.Conv2d(3, 16, 1), PadsOdd(), nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 2, 1))
    mutator = mutator_of(net)
    assert [unit.name for unit in mutator.units] == ['2_(0, 16)_16']
    assert {channels.name: channels.reason for channels in mutator.frozen}['0_(0, 16)_16'].startswith(
        "cutting it breaks the forward of module '1'")
