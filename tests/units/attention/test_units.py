"""Heads, dimensions and the stream are units: cut and masked models are equal, and arithmetic counts what runs."""
import copy

import numpy as np
import pytest
import torch
from tiny_transformer import TinyViT, images

from mmprune import Pruner
from mmprune.arguments import UserError
from mmprune.models.pruning_algorithm import PruningAlgorithm
from mmprune.units.attention.kept_channels import KeptChannels
from mmprune.units.equivalence import difference, mask_dense, outputs, random_masks, relative_difference
from mmprune.units.ranks import by_element, rank, take_order
from mmprune.units.reasons import shares_by_kind

OPTIONS = (dict(), dict(norm=True), dict(biased=True))


def mutator_of(choice=None, **options):
    return Pruner(TinyViT(**options).double(), images(), choice=choice).mutator


def shuffled(units):
    """Give every head another order of its dimensions."""
    for unit in units:
        rank(unit, torch.rand(len(by_element(unit).kept)))
    return units


def names(mutator):
    return [unit.name for unit in mutator.units]


def test_every_channel_is_in_a_unit():
    mutator = mutator_of()
    assert names(mutator) == ['patches_(0, 12)_12', *(name for i in range(2) for name in (
        f'blocks.{i}.attn.qkv_(0, 36)_36#heads', f'blocks.{i}.attn.qkv_(0, 36)_24#qk',
        f'blocks.{i}.attn.qkv_(0, 36)_12#v', f'blocks.{i}.fc1_(0, 24)_24'))]
    assert [channels.reason for channels in mutator.frozen] == [
        "it is the model's input, or comes from an operation without channels", 'it is an output of the model']
    shares = shares_by_kind(mutator)
    assert [*shares] == ['heads', 'query-key dimensions', 'value dimensions', 'inner channels', 'stream']
    assert shares['heads'] > shares['query-key dimensions'] == shares['value dimensions'] > 0


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_masked_equals_cut(options, seed):
    mutator = mutator_of(**options)
    units = shuffled(mutator.units)
    masks = random_masks(units, 0.5, seed, 0.3)
    found, cut = difference(mutator.model, units, lambda model: model(images_of(seed)), masks)
    assert found < 1e-12
    assert cut.patches.out_channels < 12
    attention = cut.blocks[0].attn
    assert attention.qkv.out_features == sum(attention.product.sizes) < 36
    assert attention.product.heads * attention.product.v_dims == attention.proj.in_features


def images_of(seed):
    return torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_masked_is_what_the_definition_says():
    """Rows of queries and keys, columns of the projection, and the stream before its norms are zero, by hand."""
    mutator = mutator_of(depth=1)
    x, dense = images(), copy.deepcopy(mutator.model).eval()
    stream, heads, qk, v, inner = mutator.units
    masks = {unit.name: np.ones(len(unit.kept), dtype=bool) for unit in mutator.units}
    masks[heads.name][1] = masks[qk.name][2] = masks[v.name][0] = masks[stream.name][5] = masks[inner.name][7] = False
    masked = outputs(mask_dense(mutator.model, mutator.units, masks), lambda model: model(x), False)
    block = dense.blocks[0]
    with torch.no_grad():
        for tensor in (dense.patches.weight, dense.patches.bias, block.attn.proj.weight, block.attn.proj.bias,
                       block.fc2.weight, block.fc2.bias):
            tensor[5] = 0
        dense.token[..., 5] = dense.positions[..., 5] = 0
        for reader in (block.attn.qkv, block.fc1, dense.head):
            reader.weight[:, 5] = 0
        rows = [part + 4 * head + 2 for part in (0, 12) for head in range(3)]  # dimension 2 of queries and keys
        block.attn.qkv.weight[rows] = block.attn.qkv.bias[rows] = 0
        block.attn.proj.weight[:, 4:8] = 0  # head 1
        block.attn.proj.weight[:, [0, 4, 8]] = 0  # value dimension 0
        block.fc2.weight[:, 7] = 0
        assert relative_difference(masked, [dense(x)]) < 1e-13


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_costs_are_those_of_the_cut_model(options):
    mutator = mutator_of(**options)
    units = shuffled(mutator.units)
    masks = random_masks(units, 0.5, 0, 0.3)
    widths = mutator.surgery.widths_with(masks)
    expected = mutator.complexity.cost(widths)
    mutator.cut(masks)
    assert mutator.cost == expected
    assert mutator.widths == widths
    assert expected['params'] == sum(parameter.numel() for parameter in mutator.model.parameters())
    tensors = dict([*mutator.model.named_parameters(), *mutator.model.named_buffers()])
    assert all(tensors[name].size(dim) == size for (name, dim), size in widths.items() if name in tensors)
    products = [block.attn.product for block in mutator.model.blocks]
    pairs = 2 * 25  # of tokens, of two images
    assert expected['products'] == sum(pairs * one.heads * (one.qk_dims + one.v_dims) for one in products)
    layers = {name: module for name, module in mutator.model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert expected['macs'] == 2 * 4 * mutator.model.patches.weight.numel() + sum(
        (2 if name == 'head' else 10) * layer.weight.numel() for name, layer in layers.items())


def test_what_a_set_costs_is_what_goes_with_it():
    """After other heads and dimensions went, too."""
    mutator = mutator_of()
    for _ in range(2):
        for unit in mutator.units:
            masks = {unit.name: unit.kept.copy()}
            masks[unit.name][np.flatnonzero(unit.kept)[0]] = False
            before, after = mutator.cost, mutator.complexity.cost(mutator.surgery.widths_with(masks))
            gone = sum(before[key] - after[key] for key in ('macs', 'products'))
            assert mutator.complexity.channel_macs(unit.channels, mutator.widths) == gone, unit.name
        mutator.cut(random_masks(mutator.units, 0.3, 0))


def test_a_structure_makes_the_same_model():
    """Another head has another choice; channels by number, as kept_channels.json has them."""
    mutator = mutator_of()
    shuffled(mutator.units)
    dense = copy.deepcopy(mutator.model)
    mutator.cut(random_masks(mutator.units, 0.5, 1))
    structure = {name: np.flatnonzero(vector).tolist() for name, vector in mutator.kept.items()}
    other = mutator_of()
    other.model.load_state_dict(dense.state_dict())
    other.apply_structure(structure)
    x = images()
    assert torch.equal(other.model.eval()(x), mutator.model.eval()(x))
    assert other.structure == mutator.structure
    with pytest.raises(UserError, match="heads of 'blocks.0.attn.qkv_.*#v' keep different numbers of dimensions"):
        mutator_of().apply_structure({'blocks.0.attn.qkv_(0, 36)_12#v': [0, 4, 5]})


def test_a_cut_goes_on_and_comes_back():
    """What stays of a second cut is a part of the first; sets of the past come back as zeros."""
    mutator = mutator_of()
    shuffled(mutator.units)
    first = random_masks(mutator.units, 0.4, 0)
    mutator.cut(first)
    for unit in mutator.units:
        rank(unit, torch.rand(int(by_element(unit).kept.sum())))
        assert np.array_equal(unit.kept, first[unit.name])
    x = images()
    before = mutator.model.eval()(x).detach()
    mutator.cut({unit.name: np.ones_like(unit.kept) for unit in mutator.units})
    assert relative_difference([before], [mutator.model(x).detach()]) < 1e-12
    assert mutator.model.blocks[0].attn.product.sizes == [12, 12, 12]


@pytest.mark.parametrize(('choice', 'parts'), [
    (dict(attention=False), {'', 'stream'}), (dict(stream='whole'), {'', 'heads', 'qk', 'v'}),
    (dict(attention=False, stream='whole'), {''})])
def test_the_user_says_what_goes(choice, parts):
    mutator = mutator_of(choice)
    found = {unit.channels.part or ('stream' if unit.name.startswith('patches') else '') for unit in mutator.units}
    assert found == parts
    with pytest.raises(UserError, match="stream is 'dense'"):
        mutator_of(dict(stream='dense'))


def test_norms_may_forget_what_was_removed():
    mutator = mutator_of(dict(stream='kept'))
    mutator.cut(random_masks(mutator.units, 0.5, 0))
    norm, x = mutator.model.norm, torch.randn(2, mutator.model.norm.weight.numel(), dtype=torch.float64)
    plain = torch.nn.functional.layer_norm(x, x.shape[1:], norm.weight, norm.bias, norm.eps)
    assert torch.equal(norm(x), plain)


def test_copies_are_cut_alike():
    """An average of the model (EMA), and other processes that get its masks, take the order of its heads."""
    algorithm = PruningAlgorithm(TinyViT(), dict(
        type='ChannelMutator', demo_input=dict(type='ExampleInputs', inputs=images(dtype=torch.float32)),
        channel_unit_cfg=dict(type='ChannelUnit', mutate_linear=True)))
    average, x = copy.deepcopy(algorithm), images(dtype=torch.float32)
    algorithm.followers = [average.mutator]
    for _ in range(2):
        for unit in algorithm.mutator.units:
            rank(unit, torch.rand(int(by_element(unit).kept.sum())))
        algorithm.cut(without_the_last(algorithm.mutator.units))
    assert [*average.mutator.kept] == [*algorithm.mutator.kept]
    assert all(np.array_equal(average.mutator.kept[name], vector) for name, vector in algorithm.mutator.kept.items())
    assert torch.equal(average.eval()(x), algorithm.eval()(x))


def without_the_last(units):
    """Return masks that drop the last present set of every unit that has several."""
    masks = {unit.name: unit.kept.copy() for unit in units}
    for mask in masks.values():
        if mask.sum() > 1:
            mask[np.flatnonzero(mask)[-1]] = False
    return masks


def test_orders_are_those_of_elements():
    mutator, other = mutator_of(), mutator_of()
    shuffled(mutator.units)
    mutator.cut(random_masks(mutator.units, 0.5, 0))
    other.apply_structure({name: np.flatnonzero(vector).tolist() for name, vector in mutator.kept.items()})
    orders = mutator.orders
    assert not all(np.array_equal(order, other.orders[name]) for name, order in orders.items())
    other.take_orders(orders)
    assert all(np.array_equal(order, other.orders[name]) for name, order in orders.items())
    assert all(np.array_equal(one.kept, unit.kept) for one, unit in zip(other.units, mutator.units))
    dims = next(unit for unit in other.units if unit.channels.part == 'v')
    with pytest.raises(UserError, match='are no ranks of the given order'):
        take_order(dims, np.stack([np.roll(order, lane) for lane, order in enumerate(orders[dims.name])]))


class WithSines(TinyViT):
    """Adds a constant of the stream's width, of which the channels that are left are taken."""

    def __init__(self):
        super().__init__()
        self.taken = KeptChannels(12, -1)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.taken(torch.linspace(0, 6, 48, dtype=x.dtype).view(1, 4, 12).sin())
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def test_a_structure_says_which_channels_of_constants_stay():
    """How many is not enough: the constants of other channels would be added, in silence."""
    mutator = Pruner(WithSines().double(), images()).mutator
    stream = 'patches_(0, 12)_12'
    masks = random_masks(mutator.units, 0.5, 1)
    mutator.cut(masks)
    kept = np.flatnonzero(masks[stream]).tolist()
    assert mutator.portable_structure == dict(mutator.structure, **{stream: kept})
    other = Pruner(WithSines().double(), images()).mutator
    with pytest.raises(UserError, match=r"how many channels of 'patches_\(0, 12\)_12' stay, and not which"):
        other.apply_structure(mutator.structure)
    other.apply_structure(mutator.portable_structure)
    other.model.load_state_dict(mutator.model.state_dict())
    x = images()
    assert torch.equal(other.model.eval()(x), mutator.model.eval()(x))
