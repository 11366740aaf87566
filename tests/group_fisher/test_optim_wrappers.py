"""The prune run is exact under what optimizer wrappers do: scales, accumulation, clipping, groups, schedules."""
import copy
from contextlib import contextmanager

import pytest
import torch
from digits_runs import make_runner, write_prune_config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn
from torch.nn import functional as F  # noqa: N812
from toy_nets import Everything, Optional, Residual, ToyClassifier, algorithm_of, randomise

from mmprune.engine.distributed import GroupFisherDDP, PortableDDP
from mmprune.engine.hook import ResourceInfoHook

SGD = dict(type='SGD', lr=0.05, momentum=0.9)


def batches(count, size=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return [dict(inputs=torch.randn(size, 3, 8, 8, generator=generator).to(dtype),
                 data_samples=torch.randint(4, (size,), generator=generator)) for _ in range(count)]


def prune(wrapper_cfg, count=24, interval=2, net=Residual, data=None, step=None, **options):
    """Train and prune; return the algorithm, its wrapper and what went, in order."""
    torch.manual_seed(0)
    algorithm = algorithm_of(ToyClassifier(randomise(net())), interval)
    wrapper = build_optim_wrapper(algorithm, copy.deepcopy(dict(wrapper_cfg)))
    order = []
    for number, one in enumerate(data or batches(count)):
        if step is not None:
            step(number, wrapper)
        algorithm.train_step(copy.deepcopy(one), wrapper)
        if algorithm.iterations % interval == 0:
            order.append(algorithm.last_pruned)
    return algorithm, wrapper, order


def places(order):
    return [(one.unit, one.channel) if one else None for one in order]


class Scaler:
    """The part of torch's gradient scaler that matters, on a CPU."""

    def __init__(self, scale):
        self.scale = torch.tensor(float(scale))

    def _get_scale_async(self):
        return self.scale


@OPTIM_WRAPPERS.register_module()
class ScaledOptimWrapper(OptimWrapper):
    """Scales the loss as AmpOptimWrapper does, which wants a GPU: skips steps that overflow, and halves the scale."""

    def __init__(self, scale, **options):
        super().__init__(**options)
        self.loss_scaler, self.overflow, self.skipped = Scaler(scale), False, 0

    def backward(self, loss, **options):
        (loss * self.loss_scaler.scale * (float('inf') if self.overflow else 1.0)).backward()
        self._inner_count += 1

    def step(self, **options):
        grads = [p.grad for group in self.optimizer.param_groups for p in group['params'] if p.grad is not None]
        if not all(bool(grad.isfinite().all()) for grad in grads):
            self.skipped += 1
            self.loss_scaler.scale.div_(2)  # in place, as torch does
            return
        for grad in grads:
            grad.div_(self.loss_scaler.scale)
        self.optimizer.step()


def scaled(scale):
    return dict(type='ScaledOptimWrapper', scale=scale, optimizer=SGD)


def test_scores_do_not_depend_on_the_loss_scale():
    runs = [prune(scaled(scale)) for scale in (1, 2**16)]
    assert places(runs[0][2]) == places(runs[1][2])
    assert len(set(places(runs[0][2]))) >= 8
    for one, other in zip(runs[0][2], runs[1][2]):
        assert one.score == other.score  # powers of two: bit-equal
    assert all(torch.equal(a, b) for a, b in zip(runs[0][0].parameters(), runs[1][0].parameters()))


def test_steps_that_overflow_contribute_nothing():
    """Iterations 3 and 6 of 8 overflow: what goes, and all weights, are those of a run without them."""
    data = batches(8)

    def overflow(number, wrapper):
        wrapper.overflow = number in (2, 5)

    torch.manual_seed(0)
    whole = prune(scaled(2**10), interval=8, data=data, step=overflow)
    left = [one for number, one in enumerate(data) if number not in (2, 5)]
    torch.manual_seed(0)
    short = prune(scaled(2**10), interval=6, data=left)
    assert whole[1].skipped == 2
    assert float(whole[1].loss_scaler.scale) == 2**8
    # the batch statistics of norms move in skipped iterations too, not what is trained or scored
    assert places(whole[2]) == places(short[2])
    assert whole[2][0].score == short[2][0].score
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), short[0].parameters()))


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Autocast on a CPU, around each forward pass as in AmpOptimWrapper."""

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield


def test_bfloat16_autocast_records_and_prunes():
    """The first event of one batch removes what float32 would remove, or a channel of nearly the same score."""
    algorithm, _, order = prune(dict(type='BFloat16OptimWrapper', optimizer=SGD), count=12)
    assert len(set(places(order))) == 6
    assert all(parameter.dtype == torch.float32 for parameter in algorithm.parameters())
    assert algorithm.mutator.fisher.dtype == torch.float32
    exact = prune(dict(type='OptimWrapper', optimizer=SGD), count=2)[2][0]
    assert order[0].score == pytest.approx(exact.score, rel=0.2)


def test_accumulated_gradients_prune_the_same():
    """Four small batches between steps, without learning: the factor of a quarter changes no order."""
    still = dict(SGD, lr=0.0)
    alone = prune(dict(type='OptimWrapper', optimizer=still), interval=4)
    together = prune(dict(type='OptimWrapper', optimizer=still, accumulative_counts=4), interval=4)
    assert places(alone[2]) == places(together[2])
    for one, other in zip(alone[2], together[2]):
        assert other.score * 16 == pytest.approx(one.score, rel=1e-6)


def test_gradients_accumulated_over_a_cut_belong_to_what_is_kept():
    """An event after two of three batches: the step is that of the masked dense model's kept rows."""
    algorithm, wrapper, order = prune(dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1),
                                           accumulative_counts=3), count=3)
    assert len(order) == 1
    for name, parameter in algorithm.named_parameters():
        assert parameter.grad is None or parameter.grad.shape == parameter.shape, name
    torch.manual_seed(0)
    dense = ToyClassifier(randomise(Residual()))
    optimizer = torch.optim.SGD(dense.parameters(), lr=0.1)
    conv = order[0].unit == 'net.conv1_(0, 5)_5'
    for number, one in enumerate(batches(3)):
        if number == 2:  # what went is silent from here on
            with torch.no_grad():
                (dense.net.conv2 if conv else dense.net.conv1).weight[:, order[0].channel] = 0
                if not conv:
                    dense.net.fc.weight[:, order[0].channel] = 0
        (dense(**one, mode='loss')['loss'] / 3).backward()
    optimizer.step()
    index = [channel for channel in range(5 if conv else 6) if channel != order[0].channel]
    own, other = (algorithm.architecture.net.conv1, dense.net.conv1) if conv else (
        algorithm.architecture.net.stem, dense.net.stem)
    assert torch.allclose(own.weight, other.weight[index], atol=1e-6)
    assert own.weight.shape[0] == len(index)


@pytest.mark.parametrize('wrapper_cfg', [
    dict(type='OptimWrapper', optimizer=SGD, clip_grad=dict(max_norm=0.5)),
    dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.05, amsgrad=True)),
    dict(type='OptimWrapper', optimizer=dict(SGD, weight_decay=0.1, nesterov=True), paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_lr_mult=2.0, custom_keys={'net.fc': dict(lr_mult=0.1)}))],
    ids=['clip', 'adamw', 'paramwise'])
def test_optimizer_state_belongs_to_the_kept_channels(wrapper_cfg):
    """Shapes fit; hyper-parameters of groups stay; two runs with one seed are bit-equal."""
    algorithm, wrapper, order = prune(wrapper_cfg, net=Everything)
    again = prune(wrapper_cfg, net=Everything)
    assert len(set(places(order))) == 12
    assert order == again[2]
    assert list(algorithm.state_dict()) == list(again[0].state_dict())
    assert all(torch.equal(value, again[0].state_dict()[key]) for key, value in algorithm.state_dict().items())
    for group in wrapper.optimizer.param_groups:
        for parameter in group['params']:
            for value in wrapper.optimizer.state.get(parameter, {}).values():
                assert not isinstance(value, torch.Tensor) or value.dim() == 0 or value.shape == parameter.shape
    dense = build_optim_wrapper(algorithm_of(ToyClassifier(Everything())), copy.deepcopy(wrapper_cfg))
    keys = [key for key in dense.optimizer.param_groups[0] if key != 'params']
    assert [{key: group[key] for key in keys} for group in wrapper.optimizer.param_groups] == [
        {key: group[key] for key in keys} for group in dense.optimizer.param_groups]


def test_step_after_a_cut_is_the_step_of_the_kept_rows_under_adamw():
    """One event, then one AdamW step: parameters equal those of an optimizer whose state was sliced by hand."""
    algorithm, wrapper, order = prune(dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01)), count=2)
    twin = copy.deepcopy(algorithm)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01)
    for own, other in zip(algorithm.parameters(), twin.parameters()):
        state = wrapper.optimizer.state.get(own)
        if state:
            optimizer.state[other] = {key: value.clone() if isinstance(value, torch.Tensor) else value
                                      for key, value in state.items()}
    data = batches(3)[2]
    algorithm.train_step(copy.deepcopy(data), wrapper)
    twin.train_step(copy.deepcopy(data), OptimWrapper(optimizer))
    assert order[0] is not None
    assert all(torch.equal(a, b) for a, b in zip(algorithm.parameters(), twin.parameters()))


def test_schedule_of_the_learning_rate_goes_on_over_cuts(tmp_path):
    """As in training without pruning, at half its learning rate."""
    config = write_prune_config(tmp_path)
    schedule = [dict(type='CosineAnnealingLR', T_max=20, by_epoch=False)]
    options = {'train_dataloader.dataset.indices': 80, 'train_dataloader.batch_size': 8}
    rates = []
    for name in (config, tmp_path / 'dense.py'):
        runner = make_runner(name, tmp_path / name.stem, options, param_scheduler=schedule)
        runner.train()
        rates.append(runner.optim_wrapper.get_lr()['lr'][0])
        if name == config:
            assert sum(unit.width - unit.num_sets for unit in runner.model.mutator.units) == 5
    assert rates[0] == pytest.approx(rates[1] / 2)
    assert rates[0] < 0.007


def test_norms_that_synchronise_become_plain_without_cuda(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip('a machine with CUDA keeps them')
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4))
    weight, caught = model[1].weight, {}
    monkeypatch.setattr(MMDistributedDataParallel, '__init__', lambda self, **options: caught.update(options))
    PortableDDP(model)
    assert type(caught['module'][1]).__name__ != 'SyncBatchNorm'
    assert caught['module'][1].weight is weight
    caught['module'](torch.randn(2, 3, 4, 4))


def test_wrappers_that_cannot_shrink_are_refused(tmp_path):
    """Parameters in shards (FSDP), and a DDP whose buckets have the old shapes."""
    class MMFullyShardedDataParallel(nn.Module):
        pass

    config = write_prune_config(tmp_path)
    runner = make_runner(config, tmp_path / 'work')
    wrapper = MMFullyShardedDataParallel()
    wrapper.module = runner.model
    runner.model = wrapper
    hook = next(hook for hook in runner.hooks if isinstance(hook, ResourceInfoHook))
    import mmprune.engine.runner
    original = mmprune.engine.runner.is_model_wrapper
    mmprune.engine.runner.is_model_wrapper = lambda model: model is wrapper or original(model)
    try:
        with pytest.raises(TypeError, match='wrapped in MMFullyShardedDataParallel, whose parameters cannot shrink'):
            hook.before_train(runner)
    finally:
        mmprune.engine.runner.is_model_wrapper = original


class Branching(ToyClassifier):
    """Runs its side branch in every second iteration only."""

    iteration = 0

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'loss':
            self.iteration += 1
            self.net.use_side = self.iteration % 2 == 0
            return dict(loss=F.cross_entropy(self.net(inputs).mean((2, 3)), data_samples))
        self.net.use_side = True
        return self.net(inputs)


@pytest.mark.filterwarnings('ignore:`broadcast_buffers` is deprecated')
def test_branches_that_an_iteration_does_not_reach(tmp_path):
    """``find_unused_parameters``: DDP prunes the channels that a run without it prunes, and trains the same weights."""
    def run(wrap):
        torch.manual_seed(0)
        algorithm = algorithm_of(Branching(Optional()), interval=2)
        model = GroupFisherDDP(algorithm, find_unused_parameters=True) if wrap else algorithm
        model.train()
        wrapper = OptimWrapper(torch.optim.SGD(algorithm.parameters(), lr=0.05, momentum=0.9))
        generator = torch.Generator().manual_seed(0)
        for _ in range(7):
            model.train_step(dict(inputs=torch.randn(4, 3, 8, 8, generator=generator),
                                  data_samples=torch.randint(2, (4,), generator=generator)), wrapper)
        return algorithm

    plain = run(False)
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        wrapped = run(True)
    finally:
        torch.distributed.destroy_process_group()
    assert plain.mutator.structure == wrapped.mutator.structure == {'net.stem_(0, 5)_5': 2}
    assert all(torch.equal(value, wrapped.state_dict()[key]) for key, value in plain.state_dict().items())


def test_two_runs_with_one_seed_are_bit_equal():
    first, second = (prune(dict(type='OptimWrapper', optimizer=SGD), net=Everything) for _ in range(2))
    assert places(first[2]) == places(second[2])
    left, right = first[0].state_dict(), second[0].state_dict()
    assert all(torch.equal(value, right[key]) for key, value in left.items())
