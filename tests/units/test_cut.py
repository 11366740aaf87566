"""A cut: what it leaves of parameters, buffers, gradients, optimizer state and attributes, and how taps record."""
import copy
import io

import numpy as np
import pytest
import torch
import toy_nets
from mmengine.optim import OptimWrapper
from torch import nn
from toy_nets import ToyClassifier, algorithm_of, randomise

from mmprune.group_fisher.ops import GroupFisherConv2d, GroupFisherLinear, Tap
from mmprune.units import equivalence
from mmprune.units.mutator import ChannelMutator

#: unit -> classes that stay, of toy_nets.Residual
STAY = {'stem_(0, 6)_6': [0, 2, 3, 5], 'conv1_(0, 5)_5': [1, 2, 4]}
X, Y = [0, 2, 3, 5], [1, 2, 4]
#: tensor -> what stays on its first and second axis, by hand
BY_HAND = {'stem.weight': (X,), 'stem.bias': (X,), 'conv1.weight': (Y, X), 'conv2.weight': (X, Y), 'fc.bias': (),
           'fc.weight': (range(4), X),
           **{f'bn{n}.{tensor}': (kept,) for n, kept in ((0, X), (1, Y), (2, X))
              for tensor in ('weight', 'bias', 'running_mean', 'running_var')},
           **{f'bn{n}.num_batches_tracked': () for n in range(3)}}


def part(name, value):
    for dim, kept in enumerate(BY_HAND[name]):
        value = value.index_select(dim, torch.tensor(list(kept)))
    return value


def masks_of(mutator, stay):
    return {unit.name: np.isin(np.arange(len(unit.kept)), stay[unit.name]) for unit in mutator.units}


def mutator_of(net, size=6):
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True),
                             dict(type='DemoInput', input_shape=(2, 3, size, size)))
    mutator.prepare(net)
    return mutator


def train(net, optimizer, steps=3, size=6):
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(4, 3, size, size)).square().sum().backward()
        optimizer.step()


OPTIMIZERS = {
    'SGD': lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9),
    'Adam': lambda params: torch.optim.Adam(params, lr=0.01, amsgrad=True),
    'AdamW': lambda params: torch.optim.AdamW(params, lr=0.01),
    'RMSprop': lambda params: torch.optim.RMSprop(params, lr=0.01, momentum=0.9, centered=True)}
STATES = {'SGD': {'momentum_buffer'}, 'Adam': {'exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'step'},
          'AdamW': {'exp_avg', 'exp_avg_sq', 'step'},
          'RMSprop': {'square_avg', 'momentum_buffer', 'grad_avg', 'step'}}


@pytest.mark.parametrize('kind', OPTIMIZERS)
def test_everything_belongs_to_the_kept_channels(kind):
    """Parameters, gradients, buffers and optimizer state, every element, by hand-written indices."""
    net = randomise(toy_nets.Residual())
    mutator = mutator_of(net)
    optimizer = OPTIMIZERS[kind](net.parameters())
    train(net, optimizer)
    tensors = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    grads = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    states = {name: {key: torch.as_tensor(value).clone() for key, value in optimizer.state[parameter].items()}
              for name, parameter in net.named_parameters()}
    objects = {name: id(tensor) for name, tensor in [*net.named_parameters(), *net.named_buffers()]}
    mutator.cut(masks_of(mutator, STAY), [optimizer])

    assert mutator.structure == {'stem_(0, 6)_6': 4, 'conv1_(0, 5)_5': 3}
    assert list(net.state_dict()) == list(tensors)
    assert {*tensors} == {*BY_HAND}
    for name, value in net.state_dict().items():
        assert torch.equal(value, part(name, tensors[name])), name
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter.grad, part(name, grads[name])), name
        assert {*optimizer.state[parameter]} == STATES[kind]
        for key, value in optimizer.state[parameter].items():
            expected = states[name][key] if key == 'step' else part(name, states[name][key])
            assert torch.equal(torch.as_tensor(value), expected), (name, key)
    assert {name: id(tensor) for name, tensor in [*net.named_parameters(), *net.named_buffers()]} == objects
    assert [id(p) for p in optimizer.param_groups[0]['params']] == [id(p) for p in net.parameters()]
    train(net, optimizer, 2)  # and it goes on


def test_a_cut_step_equals_the_step_of_the_masked_dense_model():
    """Momentum that belonged to other channels would show in the next step."""
    net = randomise(toy_nets.Residual()).double()
    # a bias in front of a norm has no gradient but rounding, which Adam's usual eps of 1e-8 would blow up
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, amsgrad=True, eps=1e-3)
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    mutator = mutator_of(net)
    for _ in range(3):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
    net.zero_grad()
    dense, cut = copy.deepcopy((net, optimizer)), (net, optimizer)
    alive = [torch.zeros(6, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)]
    alive[0][X], alive[1][Y] = 1, 1
    for layer, mask in (('conv1', alive[0]), ('conv2', alive[1]), ('fc', alive[0])):
        module = dense[0].get_submodule(layer)
        factor = mask if layer == 'fc' else mask[:, None, None]
        module.register_forward_pre_hook(lambda module, args, factor=factor: (args[0] * factor,))
    mutator.cut(masks_of(mutator, STAY), [optimizer])
    for model, stepper in (dense, cut):
        model(x).square().sum().backward()
        stepper.step()
    wanted = dense[0].state_dict()
    for name, value in cut[0].state_dict().items():
        assert value.double().numpy() == pytest.approx(part(name, wanted[name]).double().numpy(), rel=1e-12,
                                                       abs=1e-12), name


def test_channels_last_stays():
    net = toy_nets.Residual().to(memory_format=torch.channels_last)
    mutator = mutator_of(net)
    optimizer = OPTIMIZERS['SGD'](net.parameters())
    train(net, optimizer)
    mutator.cut(masks_of(mutator, STAY), [optimizer])
    for conv in (net.conv1, net.conv2):
        for tensor in (conv.weight, conv.weight.grad, optimizer.state[conv.weight]['momentum_buffer']):
            assert tensor.shape in ((3, 4, 3, 3), (4, 3, 3, 3))
            assert tensor.is_contiguous(memory_format=torch.channels_last)
            assert not tensor.is_contiguous()
    assert net.fc.weight.is_contiguous()


def test_attributes_follow():
    net = toy_nets.Everything()
    mutator = mutator_of(net, 8)
    mutator.apply_structure({'stem_(0, 12)_12': 10, 'conv1_(0, 10)_10': 3, 'group_(0, 16)_16': 6,
                             'expand_(0, 20)_20': 13, 'project_(0, 9)_9': 7, 'mix_(0, 11)_11': 2, 'fc1_(0, 14)_14': 5})
    convs = {name: (module.in_channels, module.out_channels, module.groups)
             for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    assert convs == {'stem': (3, 10, 1), 'conv1': (10, 3, 1), 'conv2': (3, 10, 1), 'group': (10, 6, 2),
                     'expand': (6, 13, 1), 'dw': (13, 13, 13), 'project': (13, 7, 1), 'shared': (7, 7, 1),
                     'mix': (13, 2, 1)}
    assert {name: (module.in_features, module.out_features)
            for name, module in net.named_modules() if isinstance(module, nn.Linear)} == {'fc1': (8, 5), 'fc2': (5, 5)}
    assert [net.get_submodule(f'bn{n}').num_features for n in range(8)] == [10, 3, 10, 6, 13, 13, 7, 2]
    assert net.dw.weight.shape == (13, 1, 3, 3)
    assert net.group.weight.shape == (6, 5, 3, 3)


def test_depthwise_conv_of_one_channel_grows_again():
    net = toy_nets.Depthwise()
    mutator = mutator_of(net)
    mutator.apply_structure({'stem_(0, 4)_4': 1, 'pw_(0, 5)_5': 5})
    assert (net.dw1.groups, net.dw2.groups, net.dw2.in_channels, net.dw2.out_channels) == (1, 1, 1, 2)
    mutator.apply_structure({'stem_(0, 4)_4': 3, 'pw_(0, 5)_5': 5})
    assert (net.dw1.groups, net.dw2.groups, net.dw2.in_channels, net.dw2.out_channels) == (3, 3, 3, 6)
    assert net(torch.randn(2, 3, 6, 6)).shape == (2, 3)
    assert not net.pw.weight[:, 2:].any()  # what came back is zero
    assert net.pw.weight[:, :2].all()


def test_module_that_shares_its_weight_follows():
    """Two modules hold one parameter; both must know its new size."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1),
                        nn.Conv2d(4, 2, 1))
    net[2].weight = net[1].weight
    mutator = mutator_of(net)
    assert list(mutator.structure) == ['0_(0, 4)_4']
    mutator.apply_structure({'0_(0, 4)_4': 3})
    assert net[2].weight is net[1].weight
    assert [(conv.in_channels, conv.out_channels) for conv in net] == [(3, 3), (3, 3), (3, 3), (3, 2)]
    assert net(torch.randn(1, 3, 6, 6)).shape == (1, 2, 6, 6)


# algorithm


def batch():
    return dict(inputs=torch.randn(4, 3, 8, 8), data_samples=torch.randint(5, (4,)))


def pruned_algorithm(steps, interval=1):
    algorithm = algorithm_of(randomise(ToyClassifier(toy_nets.Everything())), interval)
    wrapper = OptimWrapper(torch.optim.SGD(algorithm.parameters(), lr=0.01, momentum=0.9))
    algorithm.train()
    for _ in range(steps):
        algorithm.train_step(batch(), wrapper)
    return algorithm, wrapper


def total(algorithm):
    """Classes left in toy_nets.Everything, of 78."""
    return sum(unit.num_sets for unit in algorithm.mutator.units)


def reloaded(algorithm):
    """The state dict after a way through a file."""
    buffer = io.BytesIO()
    torch.save(algorithm.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_deepcopy_is_cut_on_its_own():
    algorithm, _ = pruned_algorithm(3)
    before = {key: value.clone() for key, value in algorithm.state_dict().items()}
    twin = copy.deepcopy(algorithm)
    assert twin.mutator.model is twin.architecture is not algorithm.architecture
    twin.train_step(batch(), OptimWrapper(torch.optim.SGD(twin.parameters(), lr=0.01)))
    assert (total(algorithm), total(twin)) == (75, 74)
    assert (algorithm.iterations, twin.iterations) == (3, 4)
    for key, value in algorithm.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_follower_is_cut_along():
    """An EMA copy has the structure of the model it follows, and weights of its own."""
    algorithm, wrapper = pruned_algorithm(0)
    twin = copy.deepcopy(algorithm)
    algorithm.followers = [twin.mutator]
    for _ in range(4):
        algorithm.train_step(batch(), wrapper)
    assert twin.mutator.structure == algorithm.mutator.structure
    assert total(twin) == 74
    own, other = algorithm.state_dict(), twin.state_dict()
    assert all(own[key].shape == other[key].shape for key in own)
    assert not torch.equal(own['architecture.net.fc2.bias'], other['architecture.net.fc2.bias'])


@pytest.mark.parametrize('already', [0, 4, 20], ids=['dense', 'wider', 'narrower'])
def test_state_dict_restores_structure_and_outputs_bit_for_bit(already):
    """Whatever the loading algorithm looks like: dense, less pruned or more pruned than the checkpoint."""
    algorithm, _ = pruned_algorithm(12, interval=2)
    torch.manual_seed(5)
    other, _ = pruned_algorithm(already)
    assert (total(algorithm), total(other)) == (72, 78 - already)
    assert other.load_state_dict(reloaded(algorithm)) == ([], [])
    assert other.mutator.structure == algorithm.mutator.structure
    assert all(np.array_equal(a.kept, b.kept) for a, b in zip(other.mutator.units, algorithm.mutator.units))
    assert other.iterations == 12
    x = torch.randn(3, 3, 8, 8)
    for training in (False, True):
        assert torch.equal(other.train(training)(x), algorithm.train(training)(x))


def test_run_resumed_in_the_middle_of_an_interval_continues_bit_for_bit():
    algorithm, wrapper = pruned_algorithm(7, interval=3)
    assert float(algorithm.mutator.fisher.abs().max()) > 0
    state, optimizer = reloaded(algorithm), copy.deepcopy(wrapper.state_dict())
    torch.manual_seed(9)
    first = [algorithm.train_step(batch(), wrapper)['loss'] for _ in range(8)]
    other, _ = pruned_algorithm(0, interval=3)
    other.load_state_dict(state)
    resumed = OptimWrapper(torch.optim.SGD(other.parameters(), lr=0.01, momentum=0.9))
    resumed.load_state_dict(optimizer)
    torch.manual_seed(9)
    assert [other.train_step(batch(), resumed)['loss'] for _ in range(8)] == first
    assert total(algorithm) == total(other) == 78 - 5
    own = algorithm.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in other.state_dict().items())


def test_ready_module_keeps_its_weights():
    model = ToyClassifier(toy_nets.Everything())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    algorithm = algorithm_of(model)
    algorithm.init_weights()
    assert algorithm.architecture is model
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_first_prune_comes_after_interval_iterations():
    algorithm, wrapper = pruned_algorithm(3, interval=4)
    assert total(algorithm) == 78
    algorithm.train_step(batch(), wrapper)
    assert total(algorithm) == 77
    assert float(algorithm.mutator.fisher.abs().max()) == 0


def test_every_unit_keeps_a_last_channel():
    algorithm, _ = pruned_algorithm(78)
    assert total(algorithm) == len(algorithm.mutator.units) == 7
    assert algorithm.prune([]) == []


# taps


@pytest.mark.parametrize(('shape', 'axis'), [((3, 4, 5, 6), 1), ((3, 4), 1), ((3, 4), -1), ((3, 7, 4), -1),
                                             ((3, 2, 5, 4), -1), ((3, 4, 9), 1)])
def test_tap_gradient_equals_that_of_a_mask(shape, axis):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(shape, dtype=torch.float64)
    mask, stat = torch.ones(3, 4, dtype=torch.float64, requires_grad=True), torch.zeros(3, 4, dtype=torch.float64)
    view = (3, *(4 if dim == axis % len(shape) else 1 for dim in range(1, len(shape))))
    ((x * mask.view(view)).sin() * weight).sum().backward()
    masked, x.grad = x.grad, None
    stat.requires_grad_()
    (Tap.apply(x, stat, axis).sin() * weight).sum().backward()
    assert stat.grad.numpy() == pytest.approx(mask.grad.numpy(), rel=1e-12)
    assert torch.equal(x.grad, masked)


@pytest.mark.parametrize('axis', [1, -1])
def test_large_products_are_made_in_pieces(axis, monkeypatch):
    """Five samples, two at once, then one: the same sums."""
    x, grad = torch.randn(5, 6, 4, 6), torch.randn(5, 6, 4, 6)
    results = []
    for piece in (5 * 144, 2 * 144, 10):
        monkeypatch.setattr('mmprune.group_fisher.ops.PRODUCT_ELEMENTS', piece)
        stat = torch.zeros(5, 6, requires_grad=True)
        Tap.apply(x.clone().requires_grad_(), stat, axis).backward(grad)
        results.append(stat.grad)
    wanted = (x * grad).sum((2, 3) if axis == 1 else (1, 2))
    assert all(torch.allclose(result, wanted, atol=1e-5) for result in results)
    assert all(result.shape == (5, 6) for result in results)


def test_taps_do_not_change_training():
    """Loss and gradients with and without taps are bit-equal."""
    data, runs = batch(), []
    for recording in (False, True):
        torch.manual_seed(0)
        algorithm, _ = pruned_algorithm(5)
        algorithm.mutator.taps.record(recording)
        loss = algorithm(**data, mode='loss')['loss']
        loss.backward()
        runs.append([loss, *(parameter.grad for parameter in algorithm.parameters())])
        # conv1, conv2, group, expand, dw, project, shared twice, mix, fc1, fc2; not stem, which reads the image
        assert len(algorithm.mutator.taps.take()) == (10 + 1 if recording else 0)
    assert all(torch.equal(plain, tapped) for plain, tapped in zip(*runs))


def test_no_tap_outside_training_steps():
    algorithm, wrapper = pruned_algorithm(2)
    tapped = [module for module in algorithm.modules() if isinstance(module, (GroupFisherConv2d, GroupFisherLinear))]
    assert len(tapped) == 10
    assert not any(module.recording or module.stats for module in tapped)
    algorithm(torch.randn(1, 3, 8, 8)).sum().backward()  # with gradients, but no step
    assert not any(module.stats for module in tapped)
    algorithm.mutator.taps.record(True)
    algorithm.eval()
    with torch.no_grad():
        algorithm(torch.randn(1, 3, 8, 8))
    assert not any(module.stats for module in tapped)
    algorithm.mutator.taps.record(False)


def test_failed_step_leaves_no_tap_on():
    algorithm, wrapper = pruned_algorithm(2)
    with pytest.raises(RuntimeError):
        algorithm.train_step(dict(inputs=torch.randn(4, 5, 8, 8), data_samples=torch.zeros(4, dtype=torch.long)),
                             wrapper)
    assert not any(getattr(module, 'recording', False) or getattr(module, 'stats', [])
                   for module in algorithm.modules())
    algorithm.train_step(batch(), wrapper)
    assert total(algorithm) == 75


def test_removed_taps_leave_plain_classes():
    algorithm, _ = pruned_algorithm(1)
    algorithm.mutator.release()
    kinds = {type(module) for module in algorithm.architecture.modules()}
    assert kinds == {ToyClassifier, toy_nets.Everything, nn.Conv2d, nn.BatchNorm2d, nn.Linear,
                     type(algorithm.data_preprocessor)}
    assert not any('stats' in module.__dict__ for module in algorithm.architecture.modules())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_statistic_of_half_precision_does_not_overflow(dtype):
    """300 * 300 * 256 positions = 2.3e7, beyond the 65,504 of float16; a sum of 90,000s loses digits in bfloat16."""
    x = torch.full((2, 3, 16, 16), 300.0, dtype=dtype, requires_grad=True)
    stat = torch.zeros(2, 3, requires_grad=True)
    Tap.apply(x, stat, 1).backward(torch.full((2, 3, 16, 16), 300.0, dtype=dtype))
    value = float(torch.tensor(300.0, dtype=dtype))
    assert stat.grad.dtype == torch.float32
    assert stat.grad.flatten().tolist() == pytest.approx([value * value * 256] * 6, rel=1e-6)


@pytest.mark.parametrize('autocast', [False, True], ids=['bfloat16 model', 'autocast'])
def test_layers_record_float32_statistics_in_bfloat16(autocast):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1))
    reference = copy.deepcopy(net).double()
    x = torch.randn(2, 3, 8, 8)
    stats = []
    for model in (net, reference):
        model[1].__class__ = GroupFisherConv2d
        model[1].stats, model[1].recording = stats, True
    if autocast:
        with torch.autocast('cpu', dtype=torch.bfloat16):
            out = net(x)
    else:
        out = net.bfloat16()(x.bfloat16())
    assert out.dtype == torch.bfloat16
    (100 * out.float()).square().sum().backward()
    (100 * reference(x.double())).square().sum().backward()
    assert [stat.grad.dtype for stat in stats] == [torch.float32, torch.float64]
    error = (stats[0].grad.double() - stats[1].grad).norm() / stats[1].grad.norm()
    assert float(error) < 0.02  # bfloat16 has 8 bits


def test_masks_of_check_keep_at_least_one_class():
    mutator = mutator_of(toy_nets.Everything(), 8)
    masks = equivalence.random_masks(mutator.units, 1.0, 0)
    assert [int(mask.sum()) for mask in masks.values()] == [1] * 7
