"""Scores of heads and dimensions against their definitions, by brute force in float64."""
import copy

import numpy as np
import pytest
import torch
from tiny_transformer import TinyViT, images
from torch import nn

from mmprune import Pruner
from mmprune.registry import MODELS, build
from mmprune.units.complexity import amount
from mmprune.units.ranks import by_element

LABELS = torch.arange(3)
HEADS, QK, V = (f'blocks.0.attn.qkv_(0, 36)_{suffix}' for suffix in ('36#heads', '24#qk', '12#v'))


def fisher_mutator(model, x):
    mutator = build(MODELS, dict(
        type='GroupFisherChannelMutator', demo_input=dict(type='ExampleInputs', inputs=x), channel_unit_cfg=dict(
            type='GroupFisherChannelUnit', mutate_linear=True, normalization_type='none')))
    mutator.prepare(model)
    return mutator


def loss(model, x):
    return nn.functional.cross_entropy(model(x), LABELS[:len(x)])


def masked_loss(model, x, masks):
    """Return the loss with the queries scaled and the heads' outputs multiplied, for each sample, by hand."""
    handles = []
    product = model.blocks[0].attn.product
    if 'qk' in masks:
        handles.append(product.query.register_forward_pre_hook(lambda module, args: args[0] * masks['qk'][:, None]))
    if 'v' in masks:
        handles.append(product.register_forward_hook(lambda module, args, out: out * masks['v'][:, None]))
    try:
        return loss(model, x)
    finally:
        for handle in handles:
            handle.remove()


def explicit(model, x, where):
    """Return the gradients ``Tensor[N, 12]`` of masks of ones, an element for each dimension of each head."""
    mask = torch.ones(len(x), 12, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(masked_loss(model, x, {where: mask}), mask)[0]


@pytest.mark.parametrize('options', [dict(), dict(norm=True)], ids=str)
def test_group_fisher_of_heads_and_dimensions(options):
    """A head is what its outputs lose, a query-key dimension what the product loses, once and not for either side."""
    model = TinyViT(depth=1, **options).double()
    x = images(3)
    dense = copy.deepcopy(model)
    mutator = fisher_mutator(model, x)
    Pruner(dense, x)  # its attention runs our forward, too
    mutator.taps.record(True)
    loss(model, x).backward()
    mutator.accumulate(mutator.taps.take())
    fisher = {unit.name: mutator.fisher[mutator._start[unit.name]:][:mutator._count[unit.name]]
              for unit in mutator.units}
    qk, v = explicit(dense, x, 'qk'), explicit(dense, x, 'v')
    heads = v.view(3, 3, 4).sum(2).square().sum(0)
    assert torch.allclose(fisher[HEADS], heads, rtol=1e-9)
    if options:  # the norm of a head ties its dimensions to those of the others
        assert torch.allclose(fisher[QK], qk.view(3, 3, 4).sum(1).square().sum(0), rtol=1e-9)
    else:
        assert torch.allclose(fisher[QK], qk.square().sum(0), rtol=1e-9)
    assert torch.allclose(fisher[V], v.square().sum(0), rtol=1e-9)


@pytest.mark.parametrize('where', ['qk', 'v'])
def test_the_explicit_masks_are_what_zeroing_is(where):
    """Finite differences of the loss towards zeroed dimensions, and the signed sum of both sides of the product."""
    model, x = TinyViT(depth=1).double(), images(3)
    Pruner(model, x)
    gradient = explicit(model, x, where).sum(0)
    step = 1e-6
    for dimension in range(12):
        mask = torch.ones(3, 12, dtype=torch.float64)
        mask[:, dimension] -= step
        less = masked_loss(model, x, {where: mask})
        mask[:, dimension] += 2 * step
        more = masked_loss(model, x, {where: mask})
        assert float((more - less).detach() / (2 * step)) == pytest.approx(float(gradient[dimension]), abs=1e-7)


def test_oracle_removes_a_single_dimension_of_a_head():
    model, x = TinyViT(depth=1).double().eval(), images(3)
    pruner = Pruner(model, x, 'Oracle', target=dict(flops=0.7))
    pruner.calibrate([(x, LABELS)], nn.functional.cross_entropy)
    found = pruner.criterion.losses[V]
    with torch.no_grad():
        before = loss(model, x)
        for element in range(12):
            mask = torch.ones(3, 12, dtype=torch.float64)
            mask[:, element] = 0
            change = masked_loss(model, x, {'v': mask}) - before
            assert float(found[element]) == pytest.approx(float(change), abs=1e-12)


def test_every_head_loses_its_own_worst_dimensions():
    """By L2: the norms of the rows of values and of what reads them, in each head; all heads keep two."""
    model, x = TinyViT(depth=1).double(), images()
    pruner = Pruner(model, x, 'L2', target=dict(ratio=0.5, scope='layer'))
    unit = next(unit for unit in pruner.mutator.units if unit.name == V)
    rows = model.blocks[0].attn.qkv.weight[24:].detach().norm(dim=1).view(3, 4)
    pruner.cut()
    kept = by_element(unit).kept.reshape(3, 4)
    assert (kept.sum(1) == 2).all()
    for head in range(3):
        assert {*np.flatnonzero(kept[head])} == {*rows[head].argsort()[2:].tolist()}


@pytest.mark.parametrize('part', ['qk', 'v'])
@pytest.mark.parametrize('gone', [0, 1])
def test_fisher_of_a_dimension_is_divided_by_what_all_heads_save(part, gone):
    """What one set saves, counted before and after it goes; heads that are gone save nothing."""
    model, x = TinyViT(dim=16, heads=4, depth=1).double().eval(), images(3)
    pruner = Pruner(model, x, dict(type='GroupFisher', normalization_type='flops'), ratio=0.5)
    mutator = pruner.mutator
    unit = next(unit for unit in mutator.units if unit.name.endswith(f'#{part}'))
    heads = next(unit for unit in mutator.units if unit.name.endswith('#heads'))
    mutator.cut({**{one.name: one.kept for one in mutator.units}, heads.name: np.arange(4) >= gone})
    pruner.calibrate([(x, LABELS)], nn.functional.cross_entropy)
    scores = pruner.criterion.score(unit)
    information = pruner.criterion.of_unit(by_element(unit)).reshape(4, -1).sort(dim=1, descending=True).values.sum(0)
    before = amount(mutator.cost, 'flops')
    mutator.cut({**{one.name: one.kept for one in mutator.units}, unit.name: np.arange(len(unit.kept)) > 0})
    saved = before - amount(mutator.cost, 'flops')
    torch.testing.assert_close(scores, information / saved * 1e9)


@pytest.mark.parametrize('criterion', [
    'L1', 'FPGM', 'Taylor', 'GroupFisher', 'ThiNet', 'APoZ', 'MeanActivation', 'NISP', 'WholeGroup', 'Random', 'Oracle',
    'DCP', 'LeastSquaresError', 'MeasuredError'])
def test_every_criterion_prunes_a_transformer(criterion):
    """The cut model is the masked one, and within the target."""
    model, x = TinyViT(depth=1).eval(), images(8, torch.float32)
    pruner = Pruner(model, x, criterion, target=dict(flops=0.6))
    pruner.calibrate([(x, torch.arange(8) % 5)], nn.functional.cross_entropy)
    with torch.no_grad():
        pruner.mask()
        masked = model(x)
        pruner.cut()
        assert torch.allclose(model(x), masked, rtol=1e-4, atol=1e-5)
    cost, dense = pruner.mutator.cost, pruner.mutator.complexity.cost({})
    assert cost['macs'] + cost['products'] <= 0.6 * (dense['macs'] + dense['products'])


def test_a_fisher_run_prunes_heads_and_dimensions():
    """Steps of scores and cuts, as a prune run takes them; what a dimension recorded stays with it."""
    model, x = TinyViT().double(), images(3)
    mutator = fisher_mutator(model, x)
    for _ in range(40):
        mutator.taps.record(True)
        loss(model, x).backward()
        mutator.accumulate(mutator.taps.take())
        mutator.taps.record(False)
        recorded = mutator.fisher.clone()
        pruned = mutator.least_important()
        assert torch.equal(mutator.fisher, recorded)
        worst = min(float(score.min()) for score in mutator.scores().values())
        assert pruned[0].score == pytest.approx(worst)
        before = model(x).detach()
        mutator.cut(mutator.masks_without(pruned))
        mutator.fisher.zero_()
        assert model(x).shape == before.shape
    parts = {unit.channels.part for unit in mutator.units if unit.num_sets < len(unit.kept)}
    assert {'qk', 'v'} <= parts
    mutator.release()
