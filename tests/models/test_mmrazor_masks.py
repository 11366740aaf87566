"""The masks of mmrazor's checkpoints find their channels, also of models whose list was not looked at for the rule."""
import copy

import mmrazor_files
import numpy as np
import pytest
import torch
import toy_nets
from mmrazor_files import dense_algorithm, pruned_state, random_masks_of, written_by_mmrazor
from torch import nn

from mmprune.commands import convert_mmrazor
from mmprune.graph.nested import output_tensors
from mmprune.models.checkpoint import CheckpointError
from mmprune.models.mmrazor_masks import assign, masks_in_order, match, numbered, report
from mmprune.units.equivalence import randomise
from mmprune.units.mutator import ChannelMutator

MODELS = [*mmrazor_files.CLASSIFIERS,
          *(pytest.param(name, marks=pytest.mark.full) for name in mmrazor_files.OTHERS)]
#: Models of which mmrazor leaves out channels that it could have listed by its rule.
LEFT_OUT = {
    'rtmpose_s': ['head.gau.uv'],  # read in parts by a gated unit
    'alexnet': ['backbone.features.10'],  # read through a flatten
    'rtmdet_tiny': ['neck.out_convs.0.conv', *(f'bbox_head.{kind}_convs.0.{i}.conv' for kind in ('cls', 'reg')
                                               for i in range(2))]}  # convolutions that levels share


def layers(found):
    return [channels.name.rsplit('_(', 1)[0] for channels in found]


def chain(*widths, linear=True):
    """A chain of convolutions with a linear classifier, or a convolution, at its end."""
    convs = [nn.Sequential(nn.Conv2d(a, b, 1), nn.ReLU()) for a, b in zip((3, *widths), widths)]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 2)] if linear else [nn.Conv2d(widths[-1], 2, 1)]
    mutator = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=(1, 3, 4, 4)))
    mutator.prepare(nn.Sequential(*convs, *end))
    return mutator


def vectors(*texts):
    return [np.array([character == '1' for character in text]) for text in texts]


@pytest.mark.filterwarnings('ignore:DeprecationWarning. `num_anchors`:UserWarning')  # mmdet's ATSS
@pytest.mark.parametrize('model', MODELS)
def test_masks_find_their_channels_and_the_model_computes_what_the_masked_one_does(model):
    algorithm = dense_algorithm(model)
    randomise(algorithm.architecture, 0)
    mutator, written, masks = algorithm.mutator, written_by_mmrazor(model), random_masks_of(model)
    found = match(mutator, masks)
    assert [layer for layer in layers(numbered(mutator)) if layer not in LEFT_OUT.get(model, [])] == \
        [mask.layer for mask in written]
    for channels, mask in zip(found, written):
        assert (channels.name.rsplit('_(', 1)[0], channels.num_sets) == (mask.layer, mask.width)
        assert (channels.reason is None) or not mask.may_prune
    state = pruned_state(algorithm.architecture, masks)
    dense = copy.deepcopy(algorithm.architecture).double().eval()
    of_layer = {mask.layer: vector for mask, vector in zip(written, masks)}  # by name, as no file has it
    for unit in mutator.units:
        mask_consumers(dense, unit.channels, of_layer.get(unit.name.rsplit('_(', 1)[0]))
    convert_mmrazor.convert(algorithm, state)
    for unit in mutator.units:
        vector = of_layer.get(unit.name.rsplit('_(', 1)[0], np.ones(len(unit.kept), bool))
        np.testing.assert_array_equal(unit.kept, vector)
    with torch.no_grad():
        expected = output_tensors(mutator.demo_input(dense))
        actual = output_tensors(mutator.demo_input(algorithm.architecture.double().eval()))
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected):
        assert (one - other).abs().max() < 1e-10 * max(1.0, float(other.abs().max()))


def mask_consumers(model, channels, vector):
    """Set the columns that read dropped channels to zero; those of None are all there."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for member in channels.consumers if vector is not None else []:
            dropped = torch.from_numpy(member.index[~vector].reshape(-1))
            parameters[member.axis.tensor].index_fill_(member.axis.dim, dropped, 0.0)


def test_channels_that_a_linear_layer_reads_have_a_mask_and_stay():
    mutator = chain(4, 4, 4)
    masks = assign(mutator, vectors('1010', '0111', '1111'))
    assert [list(np.flatnonzero(mask)) for mask in masks.values()] == [[0, 2], [1, 2, 3]]
    with pytest.raises(CheckpointError, match=r"^source: mask 2 prunes '2.0_\(0, 4\)_4', which stays here: linear"):
        assign(mutator, vectors('1111', '1111', '1110'))


def test_channels_with_other_parameters_have_no_mask():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(width, 4, 1) for width in (3, 4, 4))
            self.up, self.out = nn.ConvTranspose2d(4, 4, 1), nn.Conv2d(4, 2, 1)
            self.norm, self.scale = nn.BatchNorm2d(4), nn.Parameter(torch.rand(4, 1, 1))

        def forward(self, x):
            return self.out(self.up(self.c(self.norm(self.b(self.a(x) * self.scale)).relu())))

    mutator = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=(1, 3, 4, 4)))
    mutator.prepare(Scaled())
    assert layers([unit.channels for unit in mutator.units]) == ['a', 'b', 'c', 'up']
    assert layers(numbered(mutator)) == ['b']
    assert [mask.tolist() for mask in assign(mutator, vectors('0101')).values()] == [
        [True] * 4, [False, True, False, True], [True] * 4, [True] * 4]


def test_fewer_masks_are_matched_where_order_and_width_leave_no_doubt():
    mutator = chain(4, 5, 4, linear=False)
    masks = assign(mutator, vectors('10111', '0001'))
    assert [mask.tolist().count(True) for mask in masks.values()] == [4, 4, 1]
    assert report(mutator, vectors('10111', '0001')) == '2 masks; units without a mask stay whole: 0.0_(0, 4)_4'


@pytest.mark.parametrize(('texts', 'message'), [
    (('1010', '111111'), 'it has 2 masks, and this model should have 3, and it is not clear which are missing: mask 0 '
                         "(4 channels) could be that of '0.0_(0, 4)_4' or of '1.0_(0, 4)_4'"),
    (('1010', '111111', '1'), "mask 1 is for 6 channels, and '1.0_(0, 4)_4', which is number 1 here, has 4 channels. "
                              'Is PRUNE_CONFIG of that model?'),
    (('11011',), "it has 1 mask, and this model should have 3: none is for '0.0_(0, 4)_4' (4 channels), which is "
                 'number 0 here. Is PRUNE_CONFIG of that model?'),
    (('1010', '11110', '1111'), "mask 1 is for 5 channels, and '1.0_(0, 4)_4', which is number 1 here, has 4 channels. "
                                'Is PRUNE_CONFIG of that model?'),
    (('1010', '1111', '111111', '11'), 'it has 4 masks, and this model should have 3: mask 3 (2 channels) is for '
                                       "nothing here; it comes after '2.0_(0, 6)_6'. Is PRUNE_CONFIG of that model?")])
def test_lists_that_differ_are_refused_with_the_place(texts, message):
    with pytest.raises(CheckpointError) as error:
        assign(chain(4, 4, 6, linear=False), vectors(*texts))
    assert str(error.value) == f'source: {message}'


def test_tied_channels_have_an_entry_for_each_position_in_a_group():
    mutator = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=(1, 3, 4, 4)))
    mutator.prepare(nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.Conv2d(6, 2, 1)))
    assert assign(mutator, vectors('101', '110'))['0_(0, 6)_6'].tolist() == [True, False, True]
    with pytest.raises(CheckpointError, match=r"mask 0 is for 6 channels, .* has 3 sets of 2 tied channels"):
        assign(mutator, vectors('101101', '110'))


@pytest.mark.parametrize(('change', 'message'), [
    (dict(missing=1), 'source: mask 1 is missing; the numbers of its 2 masks go up to 2. Is the file complete?'),
    (dict(value=torch.tensor([1.0, 0.5, 0.0, 0.0])), 'source: mask 1 holds something else than 0 and 1'),
    (dict(value=torch.tensor([1.0, float('nan'), 0.0, 0.0])), 'source: mask 1 holds something else than 0 and 1'),
    (dict(value='1100'), 'source: mask 1 holds something else than 0 and 1'),
    (dict(value=torch.zeros(4)), 'source: mask 1 keeps none of its 4 channels'),
    (dict(value=torch.ones(0)), 'source: mask 1 keeps none of its 0 channels')])
def test_masks_that_cannot_be_are_refused(change, message):
    state = pruned_state(toy_nets.Residual(), vectors('1010', '1111', '1111'))
    key = 'mutator.units.1.mutable_channel.mask'
    if 'missing' in change:
        del state[key]
    else:
        state[key] = change['value']
    with pytest.raises(CheckpointError) as error:
        masks_in_order(state)
    assert str(error.value) == message


def test_dense_checkpoint_is_no_mmrazor_checkpoint():
    with pytest.raises(CheckpointError, match='it is no pruned checkpoint of mmrazor'):
        masks_in_order({'architecture.conv.weight': torch.ones(1)})
