"""torch.compile: a cut model computes the same compiled, forward and backward, and a prune run is the plain one."""
import pytest
import torch
from digits_runs import make_runner, train, write_prune_config
from toy_nets import Everything, Residual

from mmprune.pruning.pruner import Pruner
from mmprune.units.equivalence import randomise

pytestmark = pytest.mark.filterwarnings('ignore')  # dynamo's own


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(('net', 'backend'), [
    (Everything, 'aot_eager'),
    pytest.param(Residual, 'inductor', marks=pytest.mark.full)])  # it writes C++, for which light has no compiler
def test_cut_model_compiles(net, backend):
    net = net().double()
    randomise(net, 0)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model = Pruner(net, x, ratio=0.3).cut()
    results = []
    for forward in (model, torch.compile(model, backend=backend)):
        model.zero_grad()
        out = forward(x)
        out.square().sum().backward()
        results.append((out.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)


@pytest.fixture(scope='module')
def prune_config(tmp_path_factory):
    return write_prune_config(tmp_path_factory.mktemp('compile'))


def weights(runner):
    return {key: value.clone() for key, value in runner.model.state_dict().items()}


@pytest.mark.full
def test_compiled_runs_are_the_plain_ones(prune_config, tmp_path):
    """It goes on over its cuts, and says that they cost."""
    options = {'train_dataloader.dataset.indices': 32, 'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None}
    states = []
    for name, changes in (('plain', {}), ('compiled', dict(compile=dict(backend='aot_eager')))):
        runner = make_runner(prune_config, tmp_path / name, dict(options, **changes))
        train(runner)
        states.append(weights(runner))
    assert runner.model.mutator.structure != runner.model.mutator.dense_widths
    log = next((tmp_path / 'compiled').glob('*/*.log')).read_text()
    assert 'Model has been "compiled"' in log
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] > 10
    assert 'set compile in the finetune config instead' in log
    assert list(states[0]) == list(states[1])
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key
