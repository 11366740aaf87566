"""Masked dense models whose weights are put back, depthwise convolutions in float64, runs that are recorded."""
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations

from mmprune.units import trial
from mmprune.units.copies import double_copy, sharing_copy
from mmprune.units.equivalence import _depthwise, mask_dense, masked_dense, outputs, random_masks
from mmprune.units.layer_outputs import functions_of, run
from mmprune.units.mutator import ChannelMutator


def image(model):
    return model(torch.ones(2, 3, 8, 8, dtype=next(model.parameters()).dtype))


def mutator_of(net):
    mutator = ChannelMutator(dict(type='ChannelUnit'), dict(type='DemoInput', input_shape=(1, 3, 8, 8)))
    mutator.prepare(net)
    return mutator


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1),
                         parametrizations.weight_norm(nn.Conv2d(6, 4, 1)), nn.Conv2d(4, 2, 1))


def test_weights_are_masked_for_the_time_of_a_block():
    model = net()
    units = mutator_of(model).units
    masks = random_masks(units, 0.5, seed=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wanted = outputs(mask_dense(model, units, masks), image, False)[0]
    with masked_dense(model, units, masks) as masked:
        assert torch.equal(outputs(masked, image, False)[0], wanted)
        assert not torch.equal(model[3].weight, before['3.weight'])
    with pytest.raises(RuntimeError, match='stop'), masked_dense(model, units, masks):
        raise RuntimeError('stop')
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(outputs(sharing_copy(model), image, False)[0], wanted)


@pytest.mark.parametrize('size', [(7, 9), (1, 1), (4, 4)])
def test_a_depthwise_convolution_is_a_sum_over_its_kernel(size):
    generator = torch.Generator().manual_seed(0)
    for stride, padding, dilation, kernel, times in itertools.product(
            (1, 2, 3), (0, 2, (3, 1), 12), (1, 2, 5), ((1, 1), (3, 3), (2, 5)), (1, 2)):
        x, weight, bias = (torch.randn(shape, dtype=torch.float64, generator=generator)
                           for shape in ((2, 4, *size), (4 * times, 1, *kernel), (4 * times,)))
        try:
            wanted = F.conv2d(x, weight, bias, stride, padding, dilation, 4)
        except RuntimeError:  # the kernel is larger than the map
            continue
        assert torch.allclose(_depthwise(x, weight, bias, stride, padding, dilation, 4), wanted, atol=1e-12)


def test_a_run_ends_after_as_many_layers_as_are_asked_for():
    model = net()
    whole, part = run(model, image, False), run(model, image, False, most=2)
    assert [layer.layer for layer in whole.layers] == ['0', '3', '4', '5']
    assert [layer.layer for layer in part.layers] == ['0', '3']
    assert (len(whole.outputs), len(part.outputs)) == (1, 0)


def test_functions_of_a_forward_are_those_that_it_calls():
    names = functions_of(net(), image)
    assert [name for name in names if name in ('conv2d', 'batch_norm', 'relu')] == [
        'conv2d', 'batch_norm', 'relu', 'conv2d', 'conv2d', 'conv2d']


def test_a_sound_model_runs_ten_times(monkeypatch):
    forwards = []
    failure = trial.TrialCut.failure

    def counted(self, units):
        found = failure(self, units)
        forwards.append(self.forwards)
        return found

    monkeypatch.setattr(trial.TrialCut, 'failure', counted)
    mutator_of(net())
    assert forwards == [10]  # the cut and the masked model: half in two modes, the other half, most and little


def test_synchronised_norms_run_on_the_cpu_in_a_copy():
    copied = double_copy(nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4)))
    assert copied.train()(torch.randn(2, 3, 4, 4, dtype=torch.float64)).shape == (2, 4, 4, 4)


def test_empty_containers_of_a_copy_are_its_own():
    model = net()
    model.found = {}
    copied = sharing_copy(model)
    copied.found['one'] = copied.register_forward_hook(lambda *_: None)
    assert model.found == {}
    assert not model._forward_hooks
    assert len(copied._forward_hooks) == 1
