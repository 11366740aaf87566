"""What a pruned model says of itself, as json takes it: it cuts a fresh dense model, and says what is wrong with it."""
import json
import sys

import pytest
import torch
from torch import nn
from toy_nets import Residual, algorithm_of

from mmprune.arguments import MissingPackageError, UserError
from mmprune.integrations import timm, transformers
from mmprune.integrations.record import (
    check_record,
    check_same,
    decoded,
    encoded,
    inputs_of,
    new_record,
    read_record,
    rebuild,
)
from mmprune.models.checkpoint_file import CheckpointError
from mmprune.pruning.pruner import Pruner
from mmprune.units.structure import StructureError


class Masked(nn.Module):
    """Two convs, and a mask that is an argument."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x, mask=None, negate=False):
        x = self.third(self.second(self.first(x).relu()).relu())
        x = x if mask is None else x * mask
        return -x if negate else x


IMAGE = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def cut(model, inputs=IMAGE, **arguments):
    pruner = Pruner(model, inputs, 'L1', 0.5, **arguments)
    pruner.cut()
    return pruner


@pytest.mark.parametrize('value', [
    torch.randn(2, 3), torch.arange(4).view(2, 2), torch.ones(3, dtype=torch.bool), torch.zeros(0, 4),
    dict(x=torch.ones(1, 2), flag=True, none=None), (torch.ones(2), 'mean', 3), torch.ones(2, dtype=torch.bfloat16)])
def test_small_inputs_are_written_as_they_are(value):
    def same(left, right):
        if isinstance(left, torch.Tensor):
            return left.dtype == right.dtype and torch.equal(left, right)
        if isinstance(left, dict):
            return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
        if isinstance(left, tuple):
            return len(left) == len(right) and all(map(same, left, right))
        return left == right

    assert same(value, decoded(json.loads(json.dumps(encoded(value)))))


def test_of_large_images_the_shape_is_written():
    held = encoded(torch.randn(1, 3, 64, 64))
    assert held == dict(shape=[1, 3, 64, 64], dtype='float32')
    assert torch.equal(decoded(held), decoded(held))
    assert decoded(held).std() > 0.5


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(UserError, match='example_inputs holds <object'):
        encoded(dict(x=torch.ones(1), other=object()))


@pytest.mark.parametrize('inputs', [IMAGE, (IMAGE,), dict(x=IMAGE, negate=True),
                                    [(IMAGE,), dict(x=IMAGE, mask=torch.ones(6, 6)[:4, :4])]])
def test_a_record_cuts_a_fresh_model_to_the_same_one(inputs):
    pruner = cut(Masked(), inputs, choice=dict(exclude='second'))
    record = json.loads(json.dumps(new_record(pruner)))
    assert record['cuts'][0]['structure'] == {'first_(0, 8)_8': 4}
    fresh = rebuild(Masked(), record)
    fresh.load_state_dict(pruner.model.state_dict())
    for call in inputs_of(record):
        result = [model(**call) if isinstance(call, dict) else model(*call) for model in (pruner.model, fresh)]
        assert torch.equal(*result)


def test_cuts_in_several_steps_are_made_again_one_after_another():
    model = Masked()
    first = new_record(cut(model))
    assert len(new_record(pruner := cut(model), first)['cuts']) == 2
    second = new_record(pruner, first)
    fresh = rebuild(Masked(), json.loads(json.dumps(second)))
    assert fresh.first.out_channels == model.first.out_channels == 2
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(IMAGE), model(IMAGE))


def test_a_further_cut_of_the_same_pruner_replaces_the_first():
    pruner = Pruner(Masked(), IMAGE, 'L1', target=dict(ratio=0.5))
    pruner.cut(progress=0.5)
    first = new_record(pruner)
    pruner.cut()
    assert [one['structure'] for one in new_record(pruner, first)['cuts']] == [pruner.mutator.structure]


def test_a_prune_run_has_a_record():
    algorithm = algorithm_of(Residual())
    record = new_record(algorithm)
    assert record['cuts'][0]['structure'] == algorithm.mutator.structure
    assert inputs_of(record)[0][0].shape == algorithm.mutator.demo_input.input_shape


def test_a_masked_model_has_no_record():
    pruner = Pruner(Masked(), IMAGE, 'L1', 0.5)
    pruner.mask()
    with pytest.raises(StructureError, match=r'masked.*call cut\(\) first'):
        new_record(pruner)


@pytest.mark.parametrize(('record', 'message'), [
    (None, "config.json says nothing of a pruned model: it has no 'mmprune'"),
    (3, "config.json: 'mmprune' is 3; it must have cuts"), ({}, 'it must have cuts'), ({'cuts': []}, 'it must have'),
    ({'cuts': [3]}, 'it must have'), ({'cuts': [{'structure': {}}]}, 'structure, inputs, choice, mutate_linear'),
    ({'cuts': [{'structure': [], 'inputs': [], 'choice': {}, 'mutate_linear': True}]}, 'it must have')])
def test_what_is_no_record_is_told(record, message):
    with pytest.raises(StructureError, match=message):
        check_record(record, 'config.json')


def test_a_folder_without_a_record_is_told(tmp_path):
    with pytest.raises(StructureError, match=r"no file '.*config.json'; it must be one that save_pruned wrote"):
        read_record(tmp_path)
    (tmp_path / 'config.json').write_text('[]')
    with pytest.raises(StructureError, match="config.json' says nothing of a pruned model"):
        read_record(tmp_path)


def test_two_structures_in_a_folder_are_told(tmp_path):
    record = new_record(cut(Masked()))
    (tmp_path / 'config.json').write_text(json.dumps(dict(mmprune=record)))
    assert read_record(tmp_path) == json.loads(json.dumps(record))
    (tmp_path / 'fix_subnet.json').write_text('{"first_(0, 8)_8": 3}')
    with pytest.raises(StructureError, match=r"fix_subnet.json' is not the structure in config.json"):
        read_record(tmp_path)


def test_a_record_of_another_model_is_told():
    record = new_record(cut(Masked()))
    with pytest.raises(StructureError, match="unknown unit 'first_"):
        rebuild(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)), record)


def test_a_model_that_its_folder_does_not_give_is_told():
    model, other = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)
    check_same(model, model, [(IMAGE,)])
    with pytest.raises(CheckpointError, match='differs from the model by .* was changed after it was built'):
        check_same(model, other, [(IMAGE,)])


@pytest.mark.parametrize(('adapter', 'name'), [(timm, 'timm'), (transformers, 'transformers')])
def test_a_missing_library_is_told(adapter, name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=f'^{name} is not installed: pip install {name}$'):
        adapter.load_pruned(tmp_path)


@pytest.mark.parametrize('adapter', [timm, transformers])
def test_wrong_types_are_told(adapter, tmp_path):
    for function, arguments in ((adapter.load_pruned, [3]), (adapter.save_pruned, ['model', tmp_path]),
                                (adapter.describe, [nn.Conv2d(1, 1, 1)])):
        with pytest.raises(UserError, match='it must be'):
            function(*arguments)
