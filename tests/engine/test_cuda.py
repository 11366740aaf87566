"""On a GPU: a prune run is that of the CPU within float tolerance, under AMP, compiled, over nccl; so is a repair.

MMPRUNE_CUDA_TESTS_ON=cpu runs them without one, but for AMP and nccl: the CPU is then compared with itself.
"""
import copy
import os

import pytest
import torch
from digits_runs import make_runner, train, write_prune_config
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from rank_runs import launch
from toy_nets import Residual

from mmprune.pruning.pruner import Pruner
from mmprune.registry import MODELS
from mmprune.units.equivalence import randomise

DEVICE = os.environ.get('MMPRUNE_CUDA_TESTS_ON', 'cuda')
pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings('ignore'), pytest.mark.skipif(
    DEVICE == 'cuda' and not torch.cuda.is_available(), reason='there is no GPU')]


@pytest.fixture(scope='module')
def prune_config(tmp_path_factory):
    return write_prune_config(tmp_path_factory.mktemp('cuda'))


def algorithm_and_batches(config, device):
    """Return the algorithm of a prune config with its weights on a device, and its training batches."""
    cfg = Config.fromfile(config)
    init_default_scope('mmcls')
    algorithm = MODELS.build(copy.deepcopy(cfg.model))
    algorithm.init_weights()
    loader = Runner.build_dataloader(dict(cfg.train_dataloader, num_workers=0, persistent_workers=False), seed=0)
    return algorithm.to(device).train(), [batch for batch, _ in zip(loader, range(12))]


def steps(config, device, wrapper=OptimWrapper, **options):
    """Take training steps with prune events between them; return the algorithm."""
    algorithm, batches = algorithm_and_batches(config, device)
    optimizer = torch.optim.SGD(algorithm.parameters(), lr=0.01, momentum=0.9)
    optim_wrapper = wrapper(optimizer=optimizer, **options)
    for batch in batches:
        losses = algorithm.train_step(batch, optim_wrapper)
        assert torch.isfinite(losses['loss'])
    return algorithm


def test_prune_steps_are_those_of_the_cpu(prune_config):
    ours, theirs = (steps(prune_config, device) for device in (DEVICE, 'cpu'))
    assert ours.mutator.structure != ours.mutator.dense_widths
    assert ours.mutator.structure == theirs.mutator.structure
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name].cpu(), value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.skipif(DEVICE == 'cpu', reason="mmengine's AMP is for GPUs")
def test_channels_go_under_amp(prune_config):
    algorithm = steps(prune_config, DEVICE, AmpOptimWrapper, loss_scale='dynamic')
    assert algorithm.mutator.structure != algorithm.mutator.dense_widths
    assert {str(parameter.dtype) for parameter in algorithm.parameters()} == {'torch.float32'}


@pytest.mark.full  # it compiles, for which light has no compiler
def test_a_cut_model_computes_the_same_compiled():
    net = Residual().to(DEVICE)
    randomise(net, 0)
    x = torch.randn(2, 3, 8, 8, device=DEVICE)
    model = Pruner(net, x, ratio=0.3).cut().eval()
    torch._dynamo.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model)(x), model(x), rtol=1e-3, atol=1e-4)
    torch._dynamo.reset()


def test_a_repair_is_that_of_the_cpu():
    found = []
    images = torch.randn(40, 3, 8, 8)
    start = Residual().eval()
    randomise(start, 0)
    for device in (DEVICE, 'cpu'):
        net, dense = (copy.deepcopy(start).to(device) for _ in range(2))
        pruner = Pruner(net, images[:1].to(device), 'L1', ratio=0.4)
        pruner.cut()
        repair = pruner.repair(images.to(device), dense)
        assert repair.after < repair.before
        found.append(pruner.model(images.to(device)).detach().cpu())
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-2)


@pytest.mark.skipif(DEVICE == 'cpu', reason='nccl is for GPUs')
def test_one_rank_over_nccl_is_the_run_without_ranks(prune_config, tmp_path):
    launch('dist_train.sh', str(prune_config), '1', '--work-dir', str(tmp_path / 'ranks'), devices='0')
    runner = make_runner(prune_config, tmp_path / 'alone')
    train(runner)
    one = torch.load(next((tmp_path / 'ranks').glob('flops_*.pth')), weights_only=False)['state_dict']
    other = torch.load(next((tmp_path / 'alone').glob('flops_*.pth')), weights_only=False)['state_dict']
    assert [(name, value.shape) for name, value in one.items()] == [
        (name, value.shape) for name, value in other.items()]
