"""Copies of models that keep things beside parameters: caches with a graph, locks, files, compiled functions."""
import threading

import pytest
import torch
from torch import nn

from mmprune import Pruner
from mmprune.arguments import UserError
from mmprune.units.copies import double_copy, float_copy, sharing_copy

IMAGE = torch.randn(1, 3, 8, 8)


class Keeper(nn.Module):
    """Keeps a thing as an attribute."""

    def __init__(self, kept):
        super().__init__()
        self.a, self.b, self.kept = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1), kept

    def forward(self, x):
        return self.b(self.a(x).relu())


class Box:
    """A plain object around something."""

    def __init__(self, inside):
        self.inside = inside


@pytest.mark.parametrize('place', [lambda thing: thing, lambda thing: {'one': thing}, lambda thing: [(thing,)], Box])
@pytest.mark.parametrize('thing', [threading.Lock, lambda: torch.jit.script(nn.functional.relu),
                                   lambda: open(__file__, encoding='utf-8'),  # noqa: SIM115
                                   lambda: torch.ones(2, requires_grad=True) * 2, lambda: (number for number in [1])])
def test_what_cannot_be_copied_is_shared(thing, place):
    thing = thing()
    model = Keeper(place(thing))
    pruner = Pruner(model, IMAGE, ratio=0.5)
    assert [unit.name for unit in pruner.mutator.units] == ['a_(0, 6)_6']
    assert double_copy(model).kept is not None
    if hasattr(thing, 'close'):
        thing.close()


def test_tensors_of_caches_are_copied_and_follow_the_dtype():
    cached = torch.ones(2, requires_grad=True) * 2
    model = Keeper({'cpu': [cached]})
    model.plain = torch.ones(3)
    for copied, dtype in ((double_copy(model), torch.float64), (float_copy(model.double()), torch.float32)):
        assert copied.kept['cpu'][0].dtype == copied.plain.dtype == copied.a.weight.dtype == dtype
        assert not copied.kept['cpu'][0].requires_grad
    shared = sharing_copy(model)
    assert shared.a.weight.data_ptr() == model.a.weight.data_ptr()
    assert shared.kept['cpu'][0].data_ptr() != cached.data_ptr()
    assert model.kept['cpu'][0] is cached


def test_the_module_and_the_attribute_are_named_where_nothing_helps():
    class Stubborn:
        def __init__(self):
            self.inside = 1

        def __deepcopy__(self, memo):
            raise RuntimeError('no copies')

    model = nn.Sequential(Keeper(Stubborn()))
    with pytest.raises(UserError, match=r"attribute 'kept' of module '0' \(Stubborn\) cannot be copied "
                                        r'\(RuntimeError: no copies\), which the trial cut needs: set it to None'):
        double_copy(model)
