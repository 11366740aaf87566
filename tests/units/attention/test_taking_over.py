"""Modules run our forward while they are prunable: the same objects, keys and results; and get their own one back."""
import copy
import io
import pickle

import torch
from tiny_transformer import TinyAttention, TinyAttentionForward, TinyViT, images
from torch import nn

from mmprune import Pruner
from mmprune.units import transformer
from mmprune.units.attention.norm import StreamNorm
from mmprune.units.attention.taking_over import ATTENTIONS, forward_for, give_back, key_of, take_over


def taken(model):
    modules = [module for module in model.modules() if forward_for(module)]
    take_over(modules)
    return modules


def test_nothing_but_the_class_changes():
    model = TinyViT(norm=True, biased=True).double().eval()
    x, keys, parameters = images(), [*model.state_dict()], [*model.parameters()]
    before = model(x)
    modules = taken(model)
    assert len(modules) == 2 + 4 + 4 + 1  # attentions, their norms, those of the blocks, the last one
    assert isinstance(model.blocks[0].attn, (TinyAttention, TinyAttentionForward))
    assert [*model.state_dict()] == keys
    assert all(one is other for one, other in zip(parameters, model.parameters()))
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.allclose(other(x), before, rtol=0, atol=1e-14)
    give_back(modules)
    assert type(model.norm) is nn.LayerNorm
    assert type(model.blocks[0].attn) is TinyAttention
    assert {*vars(model.blocks[0].attn)} == {*vars(TinyViT(norm=True, biased=True).blocks[0].attn)}
    assert torch.equal(model(x), before)


def test_a_whole_model_travels_through_a_file():
    pruner = Pruner(TinyViT(), images(dtype=torch.float32), target=dict(flops=0.6))
    pruner.cut()
    file, x = io.BytesIO(), images(dtype=torch.float32)
    torch.save(pruner.model.eval(), file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), pruner.model(x))


def test_what_does_not_fit_stays():
    attention = TinyAttention(8, 2)
    attention.proj = None
    assert forward_for(attention) is None
    assert forward_for(nn.LayerNorm((4, 4))) is None
    assert forward_for(nn.LayerNorm(4, elementwise_affine=False)) is None
    assert forward_for(nn.LayerNorm(4)) is StreamNorm
    assert forward_for(nn.LayerNorm(4), norms=False) is None
    assert forward_for(TinyAttention(8, 2), attention=False) is None


class Wrong(TinyAttention):
    """Computes something that the registered forward of its class does not."""

    def forward(self, x):
        return super().forward(x) * 2


def test_a_forward_that_computes_something_else_is_not_taken(monkeypatch):
    said = []
    monkeypatch.setattr(transformer, 'print_log', lambda text, **options: said.append(text))
    monkeypatch.setitem(ATTENTIONS, key_of(Wrong), TinyAttentionForward)
    model = TinyViT(depth=1).double()
    model.blocks[0].attn.__class__ = Wrong
    mutator = Pruner(model, images()).mutator
    assert type(model.blocks[0].attn) is Wrong
    assert f'{key_of(Wrong)} computes something else' in said[0]
    assert not any(unit.channels.part for unit in mutator.units)


def test_what_no_unit_touches_gets_its_class_back():
    model = TinyViT()
    Pruner(model, images(dtype=torch.float32), choice=dict(exclude='blocks.0', stream='whole'))
    assert type(model.blocks[0].attn) is TinyAttention
    assert type(model.blocks[1].attn) is not TinyAttention
    model = TinyViT()
    Pruner(model, images(dtype=torch.float32), choice=dict(attention=False))
    assert type(model.blocks[0].attn) is not TinyAttention  # its width is that of the stream


def test_training_goes_on_with_the_same_optimizer():
    model, x = TinyViT(), images(4, torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pruner = Pruner(model, x, target=dict(flops=0.6))

    def step():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), torch.arange(4))
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    step()
    pruner.cut(optimizer)
    losses = [step() for _ in range(10)]
    assert losses[-1] < losses[0]
