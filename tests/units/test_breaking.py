"""The search for units that break a trial cut: where it starts, what it costs, and how it ends."""
import pytest
import torch
from torch import nn

from mmprune import Pruner
from mmprune.arguments import UserError
from mmprune.units import breaking, trial
from mmprune.units.mutator import ChannelMutator


class Block(nn.Module):
    """A residual block; one whose number is odd writes the size of its inner channels down in the forward."""

    def __init__(self, writes):
        super().__init__()
        self.one, self.two, self.writes = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1), writes

    def forward(self, x):
        y = self.one(x).relu()
        if self.writes:
            y = y.reshape(len(x), 6, -1).reshape(y.shape)
        return x + self.two(y)


class Wide(Block):
    """A block of another class, all of which are sound."""


class Network(nn.Module):
    def __init__(self, blocks=8):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.blocks = nn.ModuleList(Block(number % 2) if number % 4 else Wide(False) for number in range(blocks))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def mutator_of(model, **options):
    mutator = ChannelMutator(dict(type='ChannelUnit'), dict(type='DemoInput', input_shape=(1, 3, 8, 8)), **options)
    mutator.prepare(model)
    return mutator


def test_exactly_the_units_that_break_the_model_stay():
    mutator = mutator_of(Network())
    stay = [name for name, unit in ((channels.name, channels) for channels in mutator.frozen) if 'one' in name]
    assert stay == [f'blocks.{number}.one_(0, 6)_6' for number in (1, 3, 5, 7)]
    assert len(mutator.units) == 5
    assert all("breaks the forward of module 'blocks." in unit.reason for unit in mutator.frozen if 'one' in unit.name)


@pytest.mark.parametrize('limit', [2, 10, 20])
def test_a_search_is_given_up_after_so_many_forwards_and_what_is_left_can_be_cut(monkeypatch, limit):
    monkeypatch.setattr(breaking, 'MOST_FORWARDS', limit)
    torch.manual_seed(0)
    model = Network(16)
    demo = mutator_of(Network(16), trial_cut=False)
    searched = []
    failure = trial.TrialCut.failure
    monkeypatch.setattr(trial.TrialCut, 'failure', lambda self, units: searched.append(self) or failure(self, units))
    broken = breaking.breaking_units(model, demo.units, demo.demo_input, most_forwards=limit)
    assert searched[-1].forwards <= limit + 9  # those of the last trial
    names = {unit.name for unit in demo.units}
    assert {f'blocks.{number}.one_(0, 6)_6' for number in range(1, 16, 2)} <= set(broken) <= names
    good = [unit for unit in demo.units if unit.name not in broken]
    assert not good or failure(trial.TrialCut(model, demo.units, demo.demo_input), good) is None


def test_a_single_unit_is_found_in_the_module_that_it_breaks(monkeypatch):
    tried = []
    failure = trial.TrialCut.failure
    monkeypatch.setattr(trial.TrialCut, 'failure', lambda self, units: tried.append(self) or failure(self, units))
    model = Network(0)
    model.blocks.extend(Block(number == 9) for number in range(12))
    mutator = mutator_of(model)
    assert [channels.name for channels in mutator.frozen if 'one' in channels.name] == ['blocks.9.one_(0, 6)_6']
    # all units (after two runs of the masked model), both kinds of them again, each kind, that of the block, the others
    assert len(tried) == 6
    assert tried[-1].forwards == (2 + 1) + 1 + 10 + 1 + 1 + 10


def test_two_searches_find_the_same():
    reasons = [{channels.name: channels.reason for channels in mutator_of(Network()).frozen} for _ in range(2)]
    assert reasons[0] == reasons[1]


class Constant(nn.Module):
    """Multiplies with a constant of float32, which no convolution of float64 takes."""

    def __init__(self, writes=False):
        super().__init__()
        self.a, self.b, self.head, self.writes = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1), writes

    def forward(self, x):
        weight = torch.eye(x.shape[-1], dtype=torch.float32)
        x = self.a(x)
        if self.writes:
            x = x * torch.arange(x.shape[1]).view(-1, 1, 1)
        return self.head(self.b(torch.matmul(x, weight)))


def test_a_forward_with_constants_of_float32_is_tried_in_float32(monkeypatch):
    said = []
    monkeypatch.setattr(trial, 'print_log', lambda text, **options: said.append(text))
    assert [unit.name for unit in mutator_of(Constant()).units] == ['a_(0, 8)_8', 'b_(0, 6)_6']
    assert len(said) == 1
    assert said[0].startswith('the trial cut runs Constant in float32, since it has constants of float32 (')


def test_a_wrong_cut_is_found_in_float32_too():
    mutator = mutator_of(Constant(writes=True))
    assert [unit.name for unit in mutator.units] == ['b_(0, 6)_6']


class NewConstants(nn.Module):
    """Makes constants of the default dtype."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.head(torch.matmul(self.a(x), torch.eye(x.shape[-1])))


def test_new_constants_take_the_dtype_of_the_trial(monkeypatch):
    said = []
    monkeypatch.setattr(trial, 'print_log', lambda text, **options: said.append(text))
    assert [unit.name for unit in mutator_of(NewConstants()).units] == ['a_(0, 8)_8']
    assert said == []
    assert torch.get_default_dtype() == torch.float32


def test_a_model_that_runs_in_neither_is_refused_with_the_reason():
    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head, self.runs = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), iter([1])

        def forward(self, x):
            next(self.runs, None) or self.fail()
            return self.head(self.a(x))

        def fail(self):
            raise RuntimeError('one run only')

    with pytest.raises(UserError, match=r'the trial cut cannot run Once on the demo input, not in float64 '
                                        r'\(RuntimeError: one run only\) nor in float32 .*trial_cut=False prunes'):
        Pruner(Once(), torch.randn(1, 3, 8, 8), ratio=0.5)
