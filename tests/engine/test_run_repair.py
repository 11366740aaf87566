"""Repairs in prune runs: nearer to what the network was, the same after a resume, nothing but values changes."""
import copy
import re

import pytest
import torch
from digits_runs import INPUT_SHAPE, make_runner, write_prune_config
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import DefaultScope
from schedule_runs import make_folder, run, state_of, write_config  # noqa: F401 (a fixture)

from mmprune.arguments import UserError
from mmprune.engine.run_repair import RunRepair
from mmprune.engine.schedules.schedule import PruningSchedule
from mmprune.registry import HOOKS
from mmprune.repair.dense_copy import dense_copy
from mmprune.repair.layer_by_layer import LayerByLayer

pytestmark = pytest.mark.long

REPAIR = dict(images=40)
SCHEDULES = {
    'one_shot': dict(type='mmprune.OneShotPruningHook', criterion='FPGM', target=dict(flops=0.7)),
    'iterative': dict(type='mmprune.IterativePruningHook', criterion='Taylor', target=dict(flops=0.6), rounds=2,
                      batches=2),
    'layer_by_layer': dict(type='mmprune.LayerByLayerPruningHook', criterion='ThiNet', batches=2, interval=3,
                           by_epoch=False, target=dict(levels={'backbone.layer[12]': 0.4})),
    'soft': dict(type='mmprune.SoftPruningHook', rate_norm=0.9, rate_dist=0.3)}
EPOCHS = {'train_cfg.max_epochs': 2}
EMA = dict(type='EMAHook', momentum=0.1)


class Cuts:
    """Remembers the network before and after the first cut of a run, and how many cuts there were."""

    def __init__(self, monkeypatch):
        self.count, cut = 0, PruningSchedule.cut

        def noting(schedule, runner, *args):
            before = copy.deepcopy(schedule.algorithm.architecture)
            cut(schedule, runner, *args)
            self.count += 1
            if self.count == 1:
                self.before, self.after = before, copy.deepcopy(schedule.algorithm.architecture)

        monkeypatch.setattr(PruningSchedule, 'cut', noting)


def test_images(runner):
    batch = next(iter(runner.val_dataloader))
    return runner.model.architecture.data_preprocessor(copy.deepcopy(batch), False)['inputs']


test_images.__test__ = False


def logits(model, images):
    with torch.no_grad():
        return model.double().eval()(images.double(), mode='tensor')


def log_of(folder):
    return '\n'.join(path.read_text() for path in sorted(folder.glob('*/*.log')))


def repaired_run(folder, name, work_dir, repair=REPAIR, **changes):
    with DefaultScope.overwrite_default_scope('mmcls'):
        config = write_config(folder, f'{name}_{bool(repair)}', {
            **SCHEDULES[name], **({} if repair is None else dict(repair=repair))})
        return run(config, work_dir, EPOCHS, **changes)


@pytest.fixture(scope='module', params=list(SCHEDULES))
def name(request):
    return request.param


@pytest.fixture(scope='module')
def whole(folder, name):
    """The first cut of a run with a repair, its work dir and its Runner."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the tests have it: sums depend on it
    with pytest.MonkeyPatch.context() as patch:
        cuts = Cuts(patch)
        runner = repaired_run(folder, name, folder / f'whole_{name}')
    torch.set_num_threads(threads)
    return cuts, folder / f'whole_{name}', runner


def test_a_repaired_network_is_nearer_to_what_it_was_and_the_same_otherwise(whole, folder, tmp_path, monkeypatch, name):
    """On images that no repair has seen; both runs are equal until their first cut."""
    repaired, work_dir, runner = whole
    without = Cuts(monkeypatch)
    plain = repaired_run(folder, name, tmp_path, None)
    assert repaired.count == without.count == {'iterative': 2, 'layer_by_layer': 4}.get(name, 1)
    images = test_images(runner)
    wanted = logits(repaired.before, images)
    errors = [(logits(cuts.after, images) - wanted).square().sum() for cuts in (without, repaired)]
    assert errors[1] < 0.6 * errors[0]
    log = log_of(work_dir)
    line = (r'repair by 40 images: \d+ of 21 layers solved again, \d+ dropped \(worse on held-back images\).*; error '
            r'of the outputs on 8 held-back images [\d.e-]+ after the cut, [\d.e-]+ after the repair; \d+ s')
    assert len(re.findall(line, log)) == repaired.count
    assert 'repair by' not in log_of(tmp_path)
    assert list(runner.model.state_dict()) == list(plain.model.state_dict())  # no bias was added
    twin = dense_copy(runner.model.mutator)  # masked dense
    assert torch.allclose(logits(twin, images), logits(copy.deepcopy(runner.model.architecture), images), atol=1e-9)


def test_a_resumed_run_is_the_run_that_never_stopped(whole, folder, tmp_path, name):
    """From between two repairs, and from the end of the last epoch, with the repair still to come."""
    _, work_dir, runner = whole
    state, structure = state_of(runner)
    if name == 'one_shot':  # it cuts before the first iteration, and ends: there is no checkpoint to resume from
        assert not list(work_dir.glob('iter_*.pth'))
        return
    iteration = dict(iterative=3, layer_by_layer=5, soft=10)[name]
    settings = torch.load(work_dir / f'iter_{iteration}.pth', weights_only=True)['mmprune']['settings']
    assert settings['repair'] == "images=40, how='full', rounds=1"  # a resume with another is warned of
    torch.manual_seed(99)
    resumed = state_of(repaired_run(folder, name, tmp_path, resume=True,
                                    load_from=str(work_dir / f'iter_{iteration}.pth')))
    assert resumed[1] == structure
    assert all(torch.equal(value, resumed[0][key]) for key, value in state.items())


class Averages(Hook):
    """Remembers the averaged model at the end."""

    def after_train(self, runner):
        hook = next(hook for hook in runner.hooks if isinstance(hook, EMAHook))
        self.state = {key: value.clone() for key, value in hook.ema_model.state_dict().items()}


def averaged_run(folder, work_dir, **changes):
    with DefaultScope.overwrite_default_scope('mmcls'):
        config = write_config(folder, 'averaged', dict(SCHEDULES['iterative'], repair=REPAIR))
        checkpoint = dict(type='mmprune.WholeCheckpointHook', interval=1, by_epoch=False, max_keep_ckpts=-1)
        runner = make_runner(config, work_dir, {**EPOCHS, 'default_hooks.checkpoint': checkpoint}, **changes)
        averages = Averages()
        runner.register_hook(EMA, priority='NORMAL')
        runner.register_hook(averages, priority='VERY_LOW')
        runner.train()
    return runner.model.state_dict(), averages.state


@pytest.mark.parametrize('repair', [None, REPAIR], ids=['cut', 'repaired'])
def test_an_average_of_nothing_is_the_model(folder, tmp_path, repair):
    """A run that trains nothing saves and tests the averages, which mmengine copies before weights are loaded."""
    with DefaultScope.overwrite_default_scope('mmcls'):
        config = write_config(folder, f'nothing_{bool(repair)}', dict(SCHEDULES['one_shot'], repair=repair))
        runner = make_runner(config, tmp_path, EPOCHS, randomness=dict(seed=7))  # dense.pth was made with another
        runner.register_hook(EMA, priority='NORMAL')
        runner.train()
    dense = torch.load(folder / 'dense.pth', weights_only=True)['state_dict']
    saved = torch.load(tmp_path / 'pruned.pth', weights_only=True)
    names = {key for key in saved['state_dict'] if key.endswith('bn1.running_var')}
    assert names
    for name in saved['state_dict']:
        assert torch.equal(saved['state_dict'][name], saved['ema_state_dict'][f'module.{name}']), name
    stem = next(key for key in dense if key.endswith('conv1.weight'))
    kept = saved['state_dict'][f'architecture.{stem}']
    assert {*kept.flatten().tolist()} <= {*dense[stem].flatten().tolist()}  # no random filters
    assert 'averaged copy' not in log_of(tmp_path)


def test_averages_are_repaired_too_and_a_kill_in_a_repair_changes_nothing(folder, tmp_path, monkeypatch):
    whole = averaged_run(folder, tmp_path / 'whole')
    log = log_of(tmp_path / 'whole')
    assert len(re.findall(r'averaged copy: repair by 40 images', log)) == 1  # the second round
    assert 'undone' not in log

    class Killed(Exception):  # noqa: N818
        pass

    solve, turns = LayerByLayer._solve, []

    def dying(self, *args):
        turns.append(1)
        if len(turns) == 50:  # in the second round
            raise Killed
        return solve(self, *args)

    monkeypatch.setattr(LayerByLayer, '_solve', dying)
    with pytest.raises(Killed):
        averaged_run(folder, tmp_path / 'killed')
    monkeypatch.setattr(LayerByLayer, '_solve', solve)
    last = (tmp_path / 'killed' / 'last_checkpoint').read_text()
    assert last.endswith('iter_5.pth')
    resumed = averaged_run(folder, tmp_path / 'killed', resume=True, load_from=last)
    for one, other in zip(whole, resumed):
        assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_in_rounds_each_goes_against_the_dense_network(folder, tmp_path, monkeypatch):
    twins, repaired = [], RunRepair.__call__

    def noting(self, runner, algorithm, given, *args):
        twins.append(given)
        repaired(self, runner, algorithm, given, *args)

    monkeypatch.setattr(RunRepair, '__call__', noting)
    runner = repaired_run(folder, 'one_shot', tmp_path, dict(images=40, rounds='auto'))
    assert len(twins) == 4  # 0.3 of the multiply-adds go, at most 0.08 in a round
    assert all(one is twins[0] for one in twins)
    mutator = runner.model.mutator
    assert mutator.cost['macs'] <= 0.7 * mutator.complexity.cost({})['macs']
    dense = torch.load(folder / 'dense.pth', weights_only=False)['state_dict']
    assert all(torch.equal(value, dense[key]) for key, value in twins[0][0].state_dict().items() if key in dense)


# group Fisher

MORE = dict(images=200)


@pytest.fixture(scope='module')
def group_fisher(tmp_path_factory):
    """A prune config whose dense network has learned enough that a cut costs it something."""
    folder = tmp_path_factory.mktemp('group_fisher')
    with DefaultScope.overwrite_default_scope('mmcls'):
        config = write_prune_config(folder)
        runner = make_runner(folder / 'dense.py', folder / 'dense', {
            'train_dataloader.dataset.indices': 800, 'train_cfg.max_epochs': 6})
        runner.train()
    torch.save(dict(state_dict=runner.model.state_dict()), folder / 'dense.pth')
    return config


def fisher_run(config, work_dir, repair=MORE, **changes):
    options = {'optim_wrapper.optimizer.lr': 1e-6, 'model.channels_per_event': 16,
               'train_dataloader.dataset.indices': 200, 'custom_hooks.2.save_ckpt_thr': [0.8, 0.6],
               'train_cfg.max_epochs': 2, 'default_hooks.checkpoint': dict(
                   type='mmprune.WholeCheckpointHook', interval=1, by_epoch=False, max_keep_ckpts=-1)}
    if repair is not None:
        options['custom_hooks.2.repair'] = repair
    with DefaultScope.overwrite_default_scope('mmcls'):
        runner = make_runner(config, work_dir, options, **changes)
        runner.train()
    return runner


@pytest.fixture(scope='module')
def plain(group_fisher, tmp_path_factory):
    """A run without a repair."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    runner = fisher_run(group_fisher, tmp_path_factory.mktemp('plain'), None)
    torch.set_num_threads(threads)
    return runner


def losses(folder):
    found = re.findall(r'loss there ([\d.]+) and ([\d.]+)', log_of(folder))
    assert len(found) == 1  # at the last target only
    return tuple(map(float, found[0]))


def test_a_group_fisher_run_is_repaired_at_its_end_and_resumes(group_fisher, plain, tmp_path):
    whole = fisher_run(group_fisher, tmp_path / 'whole')
    assert whole.model.mutator.structure == plain.model.mutator.structure
    old, new = losses(tmp_path / 'whole')
    assert new < old
    assert 'undone' not in log_of(tmp_path / 'whole')
    images = test_images(whole)
    dense = torch.load(group_fisher.parent / 'dense.pth', weights_only=False)['state_dict']
    twin = dense_copy(whole.model.mutator)
    twin.load_state_dict(dense, strict=False)
    wanted = logits(twin, images)
    errors = [(logits(copy.deepcopy(runner.model.architecture), images) - wanted).square().sum()
              for runner in (plain, whole)]
    assert errors[1] < 0.7 * errors[0]
    saved = {name: torch.load(tmp_path / 'whole' / name, weights_only=True) for name in (
        'flops_0.60.pth', 'iter_3.pth', 'iter_5.pth')}
    assert all(torch.equal(value, saved['flops_0.60.pth']['state_dict'][key])
               for key, value in whole.model.state_dict().items() if key.startswith('architecture.'))
    assert ['mmprune_repair' in checkpoint for checkpoint in saved.values()] == [False, True, True]
    assert len(saved['iter_5.pth']['mmprune_repair']['backbone.conv1.weight']) == 8  # as it was before the first cut
    torch.manual_seed(99)
    resumed = fisher_run(group_fisher, tmp_path / 'resumed', resume=True,
                         load_from=str(tmp_path / 'whole' / 'iter_5.pth'))
    assert resumed.iter == whole.iter
    assert all(torch.equal(value, resumed.model.state_dict()[key]) for key, value in whole.model.state_dict().items())


def test_where_the_loss_does_not_fall_the_run_ends_as_without_a_repair(group_fisher, plain, tmp_path, monkeypatch):
    monkeypatch.setattr('mmprune.engine.run_repair._loss', lambda model, batches: 1.0)
    repaired = fisher_run(group_fisher, tmp_path)
    assert 'undone, since the loss is not less' in log_of(tmp_path)
    assert all(torch.equal(value, repaired.model.state_dict()[key])
               for key, value in plain.model.state_dict().items())


# what users give


def test_fewer_images_than_asked_for_are_all_taken(folder, tmp_path):
    repaired_run(folder, 'one_shot', tmp_path, dict(images=200, how='norms'))
    log = log_of(tmp_path)
    assert 'repair: images is 200, and the training data has 80: all are taken' in log
    assert 'repair by 80 images: 0 of 0 layers solved again, 0 dropped' in log
    assert 'norms measured anew' in log


@pytest.mark.parametrize(('name', 'repair', 'message'), [
    ('one_shot', 'yes', "OneShotPruningHook: repair is 'yes'; it must be a dict"),
    ('one_shot', True, 'OneShotPruningHook: repair is True; it must be a dict'),
    ('soft', dict(image=5), "SoftPruningHook: repair has no 'image', did you mean 'images'?; it takes images, how"),
    ('soft', dict(rounds=2), "SoftPruningHook: repair has no 'rounds'; it takes images, how"),
    ('layer_by_layer', dict(rounds=2), "LayerByLayerPruningHook: repair has no 'rounds'; it takes images, how"),
    ('iterative', dict(images=0), 'repair: images is 0; it must be a whole number from 2 to 10,000'),
    ('iterative', dict(images=-1), 'repair: images is -1; it must be a whole number from 2 to 10,000'),
    ('iterative', dict(images=10**9), 'repair: images is 1000000000; it must be a whole number from 2 to 10,000'),
    ('iterative', dict(images=1e9), 'repair: images is 1000000000.0; it must be a whole number'),
    ('iterative', dict(how='all'), "repair: how is 'all'; it must be one of 'full', 'bias', 'norms'"),
    ('iterative', dict(rounds=0), "repair: rounds is 0; it must be 'auto' or a whole number from 1 to 1000"),
    ('iterative', dict(rounds='many'), "repair: rounds is 'many'; it must be 'auto' or a whole number")], ids=str)
def test_mistakes_say_what_to_do(name, repair, message):
    with pytest.raises(UserError, match=re.escape(message)):
        HOOKS.build(dict(SCHEDULES[name], repair=repair))


def test_a_group_fisher_run_takes_no_rounds():
    with pytest.raises(UserError, match=r"ResourceInfoHook: repair has no 'rounds'; it takes images, how"):
        HOOKS.build(dict(type='mmprune.ResourceInfoHook', repair=dict(rounds=2)))


def test_a_demo_input_that_takes_no_images_is_told(folder, tmp_path):
    with DefaultScope.overwrite_default_scope('mmcls'):
        config = write_config(folder, 'demo', dict(SCHEDULES['one_shot'], repair=REPAIR))
        runner = make_runner(config, tmp_path)
        runner.model.mutator.demo_input = lambda model: model(torch.zeros(INPUT_SHAPE), mode='tensor')
        with pytest.raises(UserError, match='the demo input is function, which has no with_images'):
            runner.train()
