"""A proof says which check failed, and leaves out the mode that a model refuses."""
import dataclasses
import json

import pytest
import torch
import toy_nets
from paths import TINY
from torch import nn

from mmprune.commands import main
from mmprune.commands import verify as command
from mmprune.report.proof import Proof, prove
from mmprune.units.mutator import ChannelMutator

GOOD = Proof(units=2, differences=[1e-16, 2e-16], same_shapes=True, backward=True, macs=(8, 8), share=0.5,
             unaccounted=[])


class EvalOnly(nn.Module):
    """As LeViT with a distillation head: it does not run in train mode."""

    def __init__(self):
        super().__init__()
        self.net = toy_nets.Residual()

    def forward(self, x):
        if self.training:
            raise NotImplementedError('no training\nin distillation mode')
        return self.net(x)


@pytest.mark.parametrize(('change', 'line'), [
    (dict(differences=[1e-16, 1e-3]),
     'the cut model differs from the masked dense model by 1.00e-03, the limit is 1e-10'),
    (dict(differences=[float('nan')]), 'the cut model differs from the masked dense model by nan, the limit is 1e-10'),
    (dict(same_shapes=False), 'the outputs of the cut model have other shapes'),
    (dict(backward=False), 'a backward pass through the cut model gives no finite gradients'),
    (dict(macs=(8000, 9)), '8,000 multiply-adds by arithmetic, but 9 counted while the cut model ran'),
    (dict(unaccounted=['fc.weight']), 'fc.weight: some of its channels are neither in a unit nor frozen')])
def test_failed_check_is_named(change, line, capsys, tmp_path, monkeypatch):
    assert GOOD.holds()
    proof = dataclasses.replace(GOOD, **change)
    assert not proof.holds()
    assert proof.failures() == [line]
    monkeypatch.setattr(command, 'prove', lambda *args: proof)
    with pytest.raises(SystemExit) as ended:
        main(['verify', str(TINY), '--json', str(tmp_path / 'proof.json')])
    assert ended.value.code == 1
    assert capsys.readouterr().out.splitlines()[-1] == f'FAILED: {line}'
    assert json.loads((tmp_path / 'proof.json').read_text())['failed'] == [line]


def test_model_that_refuses_train_mode_is_compared_in_eval_mode(capsys):
    mutator = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=(1, 3, 6, 6)))
    mutator.prepare(EvalOnly().eval())
    proof = prove(mutator)
    assert proof.untrained == 'NotImplementedError: no training in distillation mode'
    assert proof.holds()
    assert proof.backward
    command.show(proof)
    assert ('eval mode only: in train mode the dense model raises NotImplementedError: no training in distillation mode'
            in capsys.readouterr().out.splitlines())
    # and it is a comparison: a unit with its channels in another order is found out
    broken = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=(1, 3, 6, 6)))
    broken.prepare(EvalOnly().eval())
    member = broken.units[0].channels.consumers[0]
    object.__setattr__(member, 'index', member.index[::-1].copy())
    assert max(prove(broken).differences) > 1e-3


def test_other_models_are_compared_in_both_modes():
    mutator = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=(1, 3, 6, 6)))
    mutator.prepare(toy_nets.Residual())
    assert prove(mutator).untrained is None


@pytest.mark.full
def test_deformable_convolution_that_is_called_as_a_function_is_counted():
    """As in TOOD's head."""
    deform_conv2d = pytest.importorskip('mmcv.ops').deform_conv2d

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.offset = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 18, 3, padding=1)
            self.weight = nn.Parameter(torch.randn(6, 8, 3, 3))
            self.head = nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.head(deform_conv2d(self.stem(x), self.offset(x), self.weight, 1, 1, 1, 1, 1))

    mutator = ChannelMutator(demo_input=dict(type='DemoInput', input_shape=(1, 3, 8, 8)))
    mutator.prepare(Functional())
    proof = prove(mutator)
    assert proof.holds(), proof.failures()
    assert proof.macs[0] == proof.macs[1] > 0
