"""What a signature states is held: types, names and how many; numbers are left to the checks of their range."""
import functools
import os
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Union

import numpy as np
import pytest
from mmengine.config import Config, ConfigDict
from torch import nn

from mmprune.arguments import UserError, described, fits, typed
from mmprune.registry import CRITERIA, MODELS, OwnRegistry


@pytest.mark.parametrize(('kind', 'good', 'bad'), [
    (bool, [True, False], [0, 1, 'True', None]), (str, ['', 'x'], [1, None, ['x'], b'x']),
    (Optional[str], [None, 'x'], [1, ['x']]),
    (int, [1, 'x', None], []), (float, [1, 'x', None], []), (Any, [1, 'x'], []),
    (Union[str, Sequence[str]], ['x', ['x'], ('x', )], [1, [1], {'x': 'x'}]),
    (Sequence[int], [[1], (1, ), []], [1, 'x', {1}, np.zeros(1)]), (List[bool], [[True]], [[1], True]),
    (dict, [{}, ConfigDict(a=1), Config(dict(a=1))], [[], 'x', 1]),
    (Mapping[str, str], [{}, {'a': 'b'}], [{1: 'b'}, {'a': 1}, []]), (Dict[str, Any], [{'a': 1}], [{1: 1}]),
    (Callable[[int], int], [len], [1, 'x']), (Union[dict, nn.Module], [{}, nn.ReLU()], [1, nn.ReLU]),
    (Union[str, 'os.PathLike[str]'], ['x'], [1])])
def test_fits(kind, good, bad):
    def function(value: kind):
        return value

    checked = typed(function)
    for value in good:
        assert checked(value) is value
    for value in bad:
        with pytest.raises(UserError, match=r'^function: value is .*; it must be '):
            checked(value)


def test_paths():
    assert fits(os.fspath('x'), str)
    assert described(Union[None, str, Mapping[str, int], nn.Module]) == 'text or a dict or an nn.Module or None'
    assert described(Optional[Sequence[int]]) == 'a list of whole numbers or None'
    assert described(bool) == 'True or False'


@typed
def helper(base: dict, name: str = 'x', *, flag: bool = False):
    return base, name, flag


def test_unknown_and_missing_arguments_are_one_line():
    assert helper({}, flag=True) == ({}, 'x', True)
    with pytest.raises(UserError, match=r"^helper got an unexpected keyword argument 'flags', did you mean 'flag'\?; "
                                        'it takes base, name, flag$'):
        helper({}, flags=True)
    with pytest.raises(UserError, match="^helper missing a required argument: 'base'; it takes base, name, flag$"):
        helper()


def test_long_values_are_cut_and_written_in_one_line():
    with pytest.raises(UserError) as caught:
        helper(nn.Sequential(*[nn.ReLU() for _ in range(50)]))
    assert str(caught.value).startswith('helper: base is Sequential( (0): ReLU() (1)')
    assert len(str(caught.value)) < 150


def test_only_entries_of_this_package_are_checked():
    registry = OwnRegistry('mine', scope='mine')

    @registry.register_module()
    class Loose:
        def __init__(self, number: str = None):
            self.number = number

    assert Loose(3).number == 3

    @registry.register_module()
    class Without:
        """A constructor of object's own has no module."""

    assert registry.get('Without') is Without
    registry.register_module('partial', module=functools.partial(Loose, 5))
    assert registry.get('partial')().number == 5
    CRITERIA.import_from_location()
    for entry in CRITERIA.module_dict.values():
        if entry.__module__.startswith('mmprune.'):
            assert hasattr(entry.__init__, '__wrapped__'), entry
    assert MODELS.get('DistilledSubModel').__wrapped__.__name__ == 'DistilledSubModel'
