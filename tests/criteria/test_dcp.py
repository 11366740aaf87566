"""DCP: the gradients of the joint loss by hand, the greedy order against its definition, and what it selects."""
import pytest
import torch
import toy_nets
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mmprune.criteria.calibration import Calibration
from mmprune.criteria.criterion import CriterionError, UnscorableError
from mmprune.criteria.dcp import DCP, EPSILON, RIDGE, LayerTask, select, set_numbers
from mmprune.registry import CRITERIA
from mmprune.units.equivalence import random_masks
from mmprune.units.mutator import ChannelMutator


def bound(model, size=8, **options):
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=True),
                             dict(type='DemoInput', input_shape=(1, 3, size, size)))
    mutator.prepare(model)
    criterion = DCP(**options)
    criterion.bind(mutator)
    return mutator, criterion


def calibration_of(model, size=8, batches=2, images=6, classes=3):
    data = [(torch.randn(images, 3, size, size).double(), torch.arange(images) % classes) for _ in range(batches)]
    return Calibration(data, lambda batch: F.cross_entropy(model(batch[0]), batch[1]), lambda batch: batch[1])


def toy(name):
    return toy_nets.randomise(getattr(toy_nets, name)()).double()


def unit_of(mutator, layer):
    return next(unit for unit in mutator.units if unit.channels.first.axis.layer == layer)


# the joint loss


def linear_task(discrimination, columns=5, outputs=4, rows=12, classes=3):
    layer = nn.Linear(columns, outputs).double()
    x, labels = torch.randn(rows, columns).double(), torch.arange(rows) % classes
    return LayerTask(layer, 1, [(x, labels)], discrimination), layer.weight.detach(), x, labels


def test_reconstruction_gradient_at_the_start():
    """``dL_M/dW = -1/Q O^T X`` where no channel is there."""
    task, weight, x, _ = linear_task(0.0)
    nothing = torch.zeros_like(weight).requires_grad_()
    value = task.loss(nothing)
    out = x @ weight.t()
    assert value.item() == pytest.approx(float(out.square().mean()) / 2)
    gradient, = torch.autograd.grad(value, nothing)
    torch.testing.assert_close(gradient, -out.t() @ x / out.numel())
    owner = torch.arange(5)
    first = select(task, owner, 5, 1, 0, 0.0)[0]
    assert int(first) == int((out.t() @ x).norm(dim=0).argmax())


def test_joint_gradient_at_the_start():
    """The cross entropy adds ``X^T`` of what goes back through classifier, ReLU and the norm's fixed statistics."""
    task, weight, x, labels = linear_task(2.0)
    nothing = torch.zeros_like(weight).requires_grad_()
    gradient, = torch.autograd.grad(task.loss(nothing), nothing)
    out = x @ weight.t()
    mean, deviation = out.mean(0), (out.var(0, unbiased=False) + EPSILON).sqrt()
    matrix, bias = task.classifier
    normal = (-mean / deviation).expand_as(out)
    probability = torch.softmax(normal.relu() @ matrix.t() + bias, 1)
    back = (probability - F.one_hot(labels, 3)) @ matrix * (normal > 0) / deviation / len(x)
    torch.testing.assert_close(gradient, -out.t() @ x / out.numel() + 2.0 * back.t() @ x)


def test_convolutions_pool_and_leave_out_their_bias():
    layer = nn.Conv2d(4, 3, 3, stride=2, padding=1, padding_mode='circular').double()
    pieces = [(torch.randn(5, 4, 6, 6).double(), torch.tensor([0, 1, 0, 1, 1])),
              (torch.randn(2, 4, 9, 9).double(), torch.tensor([1, 0]))]  # another size of image
    task = LayerTask(layer, 1, pieces, 0.5)
    outs = [layer(x).detach() - layer.bias.detach().view(-1, 1, 1) for x, _ in pieces]
    values = torch.cat([out.transpose(0, 1).flatten(1) for out in outs], 1)
    mean = values.mean(1).view(-1, 1, 1)
    deviation = (values.var(1, unbiased=False) + EPSILON).sqrt().view(-1, 1, 1)
    weight = torch.randn_like(layer.weight)
    matrix, bias = task.classifier
    error, entropy = 0.0, 0.0
    for (x, labels), out in zip(pieces, outs):
        own = F.conv2d(F.pad(x, (1, 1, 1, 1), mode='circular'), weight, stride=2)
        error += float((own - out).square().sum())
        features = F.relu((own - mean) / deviation).mean((2, 3))
        entropy += float(F.cross_entropy(features @ matrix.t() + bias, labels, reduction='sum'))
    assert float(task.loss(weight)) == pytest.approx(error / (2 * values.numel()) + 0.5 * entropy / 7)
    assert torch.equal(task.weight, layer.weight)


def test_auxiliary_classifier_is_the_best_one():
    """The gradient of its ridge regression vanishes."""
    task, weight, x, labels = linear_task(1.0, rows=40)
    out = x @ weight.t()
    features = F.relu((out - out.mean(0)) / (out.var(0, unbiased=False) + EPSILON).sqrt())
    matrix, bias = task.classifier
    gap = torch.softmax(features @ matrix.t() + bias, 1) - F.one_hot(labels, 3)
    assert float((gap.t() @ features / 40 + RIDGE * matrix).abs().max()) < 1e-4
    assert float(gap.mean(0).abs().max()) < 1e-4


# the greedy selection


def naive_order(task, classes, group, steps, lr):
    """Algorithm 2 on lists of columns, one column after the other."""
    weight = task.weight.clone()
    lr = lr * float(weight.square().mean()) ** 0.5
    order = []
    while len(order) < len(classes):
        present = [column for number in order for column in classes[number]]
        restricted = torch.zeros_like(weight)
        restricted[:, present] = weight[:, present]
        restricted.requires_grad_()
        gradient, = torch.autograd.grad(task.loss(restricted), restricted)
        norms = {number: sum(float(gradient[:, column].square().sum()) for column in columns) ** 0.5
                 for number, columns in enumerate(classes) if number not in order}
        order += sorted(norms, key=norms.get, reverse=True)[:group]
        present = [column for number in order for column in classes[number]]
        part = weight[:, present].clone().requires_grad_()
        optimizer = torch.optim.Adam([part], lr)
        for _ in range(steps):
            optimizer.zero_grad()
            whole = torch.zeros_like(weight).index_copy(1, torch.tensor(present), part)
            task.loss(whole).backward()
            optimizer.step()
        weight[:, present] = part.detach()
    return order


@pytest.mark.parametrize('group', [1, 2, 3])
@pytest.mark.parametrize('steps', [0, 4])
def test_order_is_that_of_the_definition(group, steps):
    task, *_ = linear_task(1.0, columns=14)
    classes = [[2 * number, 2 * number + 1] for number in (3, 1, 0, 6, 5, 2, 4)]  # as behind a flatten
    owner = torch.empty(14, dtype=torch.long)
    for number, columns in enumerate(classes):
        owner[columns] = number
    order = select(task, owner, 7, group, steps, 0.05)
    assert order.tolist() == naive_order(task, classes, group, steps, 0.05)
    assert sorted(order.tolist()) == list(range(7))


def test_channels_of_no_unit_are_there_from_the_start():
    """The outputs are ``a - a + b/2``: ``b`` comes first, but where ``a`` is there it is ``-a`` that is missed most."""
    a, b = torch.randn(50).double(), torch.randn(50).double()
    layer = nn.Linear(3, 2, bias=False).double()
    nn.init.ones_(layer.weight)
    task = LayerTask(layer, 1, [(torch.stack([a, -a, b / 2], 1), torch.zeros(50).long())], 0.0)
    assert int(select(task, torch.tensor([0, 1, 2]), 3, 1, 0, 0.0)[0]) == 2
    assert select(task, torch.tensor([-1, 1, 0]), 2, 1, 0, 0.0).tolist() == [1, 0]


def test_training_makes_up_for_what_is_not_there():
    """Two channels are almost alike: once one is taken and trained, the other has nothing to add."""
    a, b = torch.randn(200).double(), torch.randn(200).double()
    x = torch.stack([2 * a, 2 * a + 0.01 * torch.randn(200).double(), 0.5 * b], 1)
    layer = nn.Linear(3, 2, bias=False).double()
    nn.init.ones_(layer.weight)
    task = LayerTask(layer, 1, [(x, torch.zeros(200).long())], 0.0)
    owner = torch.arange(3)
    assert set(select(task, owner, 3, 1, 0, 0.0)[:2].tolist()) == {0, 1}
    assert int(select(task, owner, 3, 1, 60, 0.05)[1]) == 2


# the criterion on networks


@pytest.mark.parametrize('discrimination', [0.0, 1.0])
@pytest.mark.parametrize('cut', [False, True], ids=['dense', 'cut'])
def test_scores_are_places_of_the_layer(discrimination, cut):
    """``fc1`` reads the channels of ``conv`` behind a flatten, nine columns each."""
    model = toy('Flatten')
    mutator, criterion = bound(model, 6, discrimination=discrimination, group=1, steps=2)
    if cut:
        mutator.cut(random_masks(mutator.units, 0.3, 1))
    calibration = calibration_of(model, 6)
    criterion.calibrate(calibration)
    model.eval()
    inputs = []
    handle = model.fc1.register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach()))
    for batch in calibration.batches:
        calibration.loss(batch)
    handle.remove()
    labels = torch.cat([batch[1] for batch in calibration.batches])
    task = LayerTask(model.fc1, 1, list(zip(inputs, labels.split(6))), discrimination)
    channels = model.conv.out_channels
    order = naive_order(task, [list(range(9 * c, 9 * c + 9)) for c in range(channels)], 1, 2, 0.01)
    expected = torch.empty(channels).double()
    expected[order] = 1 - torch.arange(channels).double() / channels
    unit = unit_of(mutator, 'conv')
    torch.testing.assert_close(criterion.score(unit), expected)
    assert len(expected) == unit.num_sets


@pytest.mark.parametrize('net', ['Residual', 'Concat', 'Depthwise', 'Grouped', 'Shared', 'Tokens', 'Everything'])
def test_every_net_gets_places(net):
    model = toy(net)
    mutator, criterion = bound(model, group=3, steps=1)
    criterion.calibrate(calibration_of(model))
    for unit in mutator.units:
        for score in criterion.scores[unit.name]:
            assert score.shape == (unit.num_sets,)
            assert float(score.min()) > 0
            assert float(score.max()) <= 1
        assert criterion.score(unit).shape == (unit.num_sets,)
    readers = {unit.channels.first.axis.layer: len(criterion.scores[unit.name]) for unit in mutator.units}
    assert readers == {
        'Residual': {'stem': 2, 'conv1': 1}, 'Concat': {'a': 2, 'b': 2, 'c': 1},
        'Depthwise': {'stem': 1, 'pw': 1}, 'Grouped': {'stem': 1, 'g': 1}, 'Shared': {'stem': 2},
        'Tokens': {'embed': 2, 'fc1': 1},
        'Everything': {'stem': 2, 'conv1': 1, 'group': 2, 'expand': 1, 'project': 2, 'mix': 1, 'fc1': 1}}[net]


def test_units_of_one_layer_are_selected_together():
    model = toy('Concat')
    mutator, criterion = bound(model, steps=1)
    criterion.calibrate(calibration_of(model))
    a, b = (criterion.scores[unit_of(mutator, layer).name] for layer in 'ab')
    together = torch.cat([a[0], b[0]]).sort().values  # of c, which reads both
    torch.testing.assert_close(together, torch.arange(1, 10).double() / 9)


class Classes(nn.Module):
    """Twelve channels of which only 2, 5 and 11 differ between classes; the others are louder."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 12, 1, bias=False), nn.Conv2d(12, 8, 1)
        self.fc = nn.Linear(8, 3)
        nn.init.zeros_(self.stem.weight)
        with torch.no_grad():
            self.stem.weight[:, 0] = 3.0  # noise
            for channel, row in ((2, [0.0, 1.0, 0.0]), (5, [0.0, 0.0, 1.0]), (11, [0.0, 1.0, -1.0])):
                self.stem.weight[channel] = torch.tensor(row).view(3, 1, 1)

    def forward(self, x):
        return self.fc(F.relu(self.conv(self.stem(x))).mean((2, 3)))


def test_channels_that_tell_classes_apart_come_first():
    model = Classes().double()
    labels = torch.arange(60) % 3
    images = torch.randn(60, 3, 4, 4).double()
    images[:, 1] = (labels == 0).double().view(-1, 1, 1) + 0.05 * images[:, 1]
    images[:, 2] = (labels == 1).double().view(-1, 1, 1) + 0.05 * images[:, 2]
    calibration = Calibration([(images, labels)], lambda batch: F.cross_entropy(model(batch[0]), batch[1]),
                              lambda batch: batch[1])
    best = {}
    for discrimination in (0.0, 10.0):
        mutator, criterion = bound(model, 4, discrimination=discrimination, group=1, steps=10)
        criterion.calibrate(calibration)
        best[discrimination] = set(criterion.score(unit_of(mutator, 'stem')).topk(3).indices.tolist())
    assert best[10.0] == {2, 5, 11}
    assert best[0.0] != {2, 5, 11}


def test_model_random_state_and_scores_are_the_same_again():
    model = toy('Everything')
    model.train()
    model.conv1.weight.requires_grad_(False)
    mutator, criterion = bound(model, group=4, steps=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calibration = calibration_of(model)
    state = torch.get_rng_state()
    criterion.calibrate(calibration)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert not model.conv1.weight.requires_grad
    assert not any(module._forward_pre_hooks for module in model.modules())
    first = {unit.name: criterion.score(unit) for unit in mutator.units}
    torch.rand(3)
    criterion.calibrate(calibration)
    assert all(torch.equal(criterion.score(unit), first[unit.name]) for unit in mutator.units)


def test_only_the_first_images_count():
    model = toy('Residual')
    mutator, criterion = bound(model, samples=9, steps=1)
    data = calibration_of(model, batches=4)
    ran = []

    def loss(batch):
        ran.append(len(batch[0]))
        return data.loss(batch)

    criterion.calibrate(Calibration(data.batches, loss, data.labels))
    assert ran == [6, 6] * 3  # for conv1, conv2 and fc
    scores = {unit.name: criterion.score(unit) for unit in mutator.units}
    criterion.calibrate(Calibration([tuple(part[:rows] for part in batch) for batch, rows in zip(data.batches, (6, 3))],
                                    data.loss, data.labels))
    assert all(torch.equal(criterion.score(unit), scores[unit.name]) for unit in mutator.units)


# what a user gets wrong


def test_labels_are_needed():
    model = toy('Residual')
    mutator, criterion = bound(model)
    with pytest.raises(CriterionError, match=r'has no labels: give Calibration\(labels=...\)'):
        criterion.calibrate(calibration_of(model)._replace(labels=None))


def test_layers_that_read_other_rows_than_images_have_no_say():
    """The head of two levels reads each image once a level; labels of half an image fit no layer."""
    model = toy('SharedHead')
    mutator, criterion = bound(model, steps=1)
    images = torch.randn(6, 3, 8, 8).double()
    batch = (images, torch.arange(6) % 2)

    def loss(batch):
        return sum(out.mean() for out in model(batch[0]))

    criterion.calibrate(Calibration([batch], loss, lambda batch: batch[1]))
    assert [len(criterion.scores[unit.name]) for unit in mutator.units] == [1, 1]
    criterion.calibrate(Calibration([batch], loss, lambda batch: batch[1][:3]))
    with pytest.raises(UnscorableError, match='no conv or linear layer reads it once for each labelled image'):
        criterion.score(mutator.units[0])


@pytest.mark.parametrize(('option', 'value', 'least'), [
    ('discrimination', -1.0, 0), ('samples', 1, 2), ('group', 0, 1), ('steps', -1, 0), ('lr', -0.1, 0)])
def test_options_out_of_range(option, value, least):
    with pytest.raises(ValueError, match=f'{option} is {value}; it must be a (whole )?number,? (of|from) {least}'):
        CRITERIA.build({'type': 'DCP', option: value})


@pytest.mark.parametrize(('labels', 'what'), [
    (torch.rand(4, 3), r'torch.float32 of shape \(4, 3\)'), (torch.zeros(4, 6, 6, dtype=int), r'shape \(4, 6, 6\)'),
    ([0, 1, 0, 1], 'list')])
def test_labels_that_are_no_classes(labels, what):
    with pytest.raises(CriterionError, match=f'needs labels of whole numbers, LongTensor.N., and got .*{what}'):
        set_numbers(labels)
