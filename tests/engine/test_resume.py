"""A resumed run is the run that never stopped, bit for bit; checkpoints are whole, and the last good one stays."""
import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from digits_runs import RESUME_OPTIONS as OPTIONS
from digits_runs import make_runner, write_prune_config
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from paths import ROOT
from squares import Squares
from torch.utils.data import DataLoader

from mmprune.engine.checkpoint_hook import WholeCheckpointHook, WholeFileBackend
from mmprune.engine.seeded_data import seed_loader
from mmprune.models.checkpoint import latest_checkpoint
from mmprune.random_state import random_state, seeded, set_random_state

pytestmark = pytest.mark.long

#: 12 iterations an epoch, random crops and flips, dropout-free: what is random is the data.


@pytest.fixture(scope='module')
def prune_config(tmp_path_factory):
    return write_prune_config(tmp_path_factory.mktemp('resume'))


class Noise(Hook):
    """Draws from the process's generators in every step, as dropout does, and remembers what it got."""

    def __init__(self):
        self.drawn = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.drawn[runner.iter] = (random.random(), np.random.rand(), float(torch.rand(())),
                                   float(data_batch['inputs'].double().sum()))


def run(config, work_dir, save, workers=0, by_epoch=False, **changes):
    """Train; return the final state, its structure and what was drawn in each iteration."""
    checkpoint = dict(type='mmprune.WholeCheckpointHook', interval=save, by_epoch=by_epoch)
    options = {**OPTIONS, 'default_hooks.checkpoint': checkpoint, 'train_dataloader.num_workers': workers,
               'train_dataloader.persistent_workers': workers > 0, **changes.pop('options', {})}
    runner = make_runner(config, work_dir, options, **changes)
    noise = Noise()
    runner.register_hook(noise)
    runner.train()
    return runner.model.state_dict(), runner.model.mutator.structure, noise.drawn


def assert_same_end(first, second):
    assert first[1] == second[1]
    assert list(first[0]) == list(second[0])
    assert all(torch.equal(value, second[0][key]) for key, value in first[0].items())


@pytest.mark.parametrize(('workers', 'by_epoch', 'save'), [(0, False, 5), (2, False, 17), (0, True, 1), (2, True, 1)])
def test_resumed_run_is_the_run_that_never_stopped(prune_config, tmp_path, workers, by_epoch, save):
    """Checkpoints inside the first and second epoch and at the end of one; 5 and 17 lie inside a prune interval."""
    whole = run(prune_config, tmp_path / 'whole', save, workers, by_epoch)
    name = f'epoch_{save}.pth' if by_epoch else f'iter_{save}.pth'
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    resumed = run(prune_config, tmp_path / 'resumed', save, workers, by_epoch, resume=True,
                  load_from=str(tmp_path / 'whole' / name))
    assert sum(whole[1].values()) < 8 + 16 + 32 + 64 + 1000
    start = 12 * save if by_epoch else save
    assert min(resumed[2]) == start
    assert resumed[2] == {iteration: values for iteration, values in whole[2].items() if iteration >= start}
    assert_same_end(whole, resumed)


def test_data_does_not_depend_on_the_number_of_workers(prune_config, tmp_path):
    runs = [run(prune_config, tmp_path / str(workers), 100, workers) for workers in (0, 1)]
    assert runs[0][2] == runs[1][2]
    inputs = [values[3] for values in runs[0][2].values()]
    assert len(set(inputs)) == len(inputs)  # other crops in the second epoch
    assert_same_end(*runs)


@pytest.mark.parametrize(('sampler', 'workers'), [('InfiniteSampler', 1), ('DefaultSampler', 0)])
def test_loop_of_iterations_resumes_too(prune_config, tmp_path, sampler, workers):
    """With an endless sampler, and with one of 12 batches a pass, in the second pass."""
    loop = dict(train_cfg=dict(by_epoch=False, max_iters=18, val_interval=6), param_scheduler=[])
    options = {'train_dataloader.sampler': dict(type=sampler, shuffle=True)}
    whole = run(prune_config, tmp_path / 'whole', 13, workers, options=options, **loop)
    resumed = run(prune_config, tmp_path / 'resumed', 13, workers, options=options, resume=True,
                  load_from=str(tmp_path / 'whole' / 'iter_13.pth'), **loop)
    assert len({values[3] for values in whole[2].values()}) == 18
    assert resumed[2] == {iteration: values for iteration, values in whole[2].items() if iteration >= 13}
    assert_same_end(whole, resumed)


def batches_of(workers, epoch=0, skip=0, seed=(3, 0), **options):
    loader = DataLoader(Squares(), batch_size=2, num_workers=workers, collate_fn=list, **options)
    batches = seed_loader(loader, seed)
    batches.epoch, batches.skip = epoch, skip
    return list(loader)


def test_seeded_loader_by_hand():
    sampler = dict(sampler=DefaultSampler(Squares(), seed=1))
    before = random_state()
    plain = batches_of(0, **sampler)
    assert all(torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other for one, other in zip(
        [before['torch'], before['python'][0]], [random_state()['torch'], random_state()['python'][0]]))
    assert batches_of(2, **sampler) == plain
    assert batches_of(2, multiprocessing_context='spawn', **sampler) == plain
    assert batches_of(2, skip=3, **sampler) == plain[3:]
    assert batches_of(0, shuffle=True) == batches_of(2, shuffle=True)  # a sampler without a seed of its own
    flat = [values for batch in plain for values in batch]
    assert sorted(values[0] for values in flat) == list(range(10))
    assert len({values[1:] for values in flat}) == 10
    for changed in (dict(epoch=1), dict(seed=(4, 0)), dict(seed=(3, 1))):
        assert not {values[1:] for values in flat} & {
            values[1:] for batch in batches_of(0, **changed, **sampler) for values in batch}


def test_random_state_round_trip(tmp_path):
    torch.save(random_state(), tmp_path / 'state.pth')
    drawn = random.random(), np.random.randn(), float(torch.rand(()))
    with seeded((1, 2)):
        inside = random.random(), np.random.rand(), float(torch.rand(()))
    with seeded((1, 2)):
        assert inside == (random.random(), np.random.rand(), float(torch.rand(())))
    set_random_state(torch.load(tmp_path / 'state.pth', weights_only=True))
    with pytest.raises(ZeroDivisionError), seeded((1, 2)):
        1 / 0  # noqa: B018
    assert drawn == (random.random(), np.random.randn(), float(torch.rand(())))


def test_ranks_that_do_not_match_are_said(prune_config, tmp_path, caplog):
    run(prune_config, tmp_path / 'one', 5)
    path = tmp_path / 'one' / 'iter_5.pth'
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['mmprune']['ranks'] *= 2
    torch.save(checkpoint, path)
    run(prune_config, tmp_path / 'two', 5, resume=True, load_from=str(path))
    log = next((tmp_path / 'two').glob('*/*.log')).read_text()
    assert 'random state of 2 processes, this run has 1: it continues, but not bit for bit' in log


def test_other_settings_are_named(prune_config, tmp_path):
    """Another interval and another target; a resume as before says nothing."""
    run(prune_config, tmp_path / 'one', 5)
    path = str(tmp_path / 'one' / 'iter_5.pth')
    assert torch.load(path, weights_only=False)['mmprune']['settings'] == dict(
        interval='2', channels_per_event='1', align='1', normalization_type='act', target='0.9', resource_type='flops')
    for name, options in (('same', {}), ('other', {'model.interval': 3, 'custom_hooks.2.save_ckpt_thr': [0.8]})):
        run(prune_config, tmp_path / name, 5, options=options, resume=True, load_from=path)
    logs = {name: next((tmp_path / name).glob('*/*.log')).read_text() for name in ('same', 'other')}
    assert 'other settings' not in logs['same']
    assert ('the run is resumed with other settings: interval is 3, it was 2; target is 0.8, it was 0.9. It goes on '
            'with the new ones') in logs['other']


# checkpoints


class Full:
    """A disk that is full while one file is written."""

    def __init__(self, monkeypatch, name):
        self.name, self.put = name, WholeFileBackend.put
        monkeypatch.setattr(WholeFileBackend, 'put', lambda backend, obj, path: self.write(backend, obj, path))

    def write(self, backend, obj, path):
        if Path(path).name == self.name:
            Path(path).with_name('.half').write_bytes(obj[:1000])
            raise OSError(errno.ENOSPC, 'No space left on device')
        self.put(backend, obj, path)


def test_full_disk_is_reported_and_the_last_good_checkpoint_stays(prune_config, tmp_path, monkeypatch):
    Full(monkeypatch, 'iter_10.pth')
    run(prune_config, tmp_path / 'full', 5, options={'train_cfg.max_epochs': 1, 'default_hooks.checkpoint': dict(
        type='mmprune.WholeCheckpointHook', interval=5, by_epoch=False, max_keep_ckpts=1, save_last=False)})
    log = next((tmp_path / 'full').glob('*/*.log')).read_text()
    assert 'iter_10.pth could not be written ([Errno 28] No space left on device); the last good one is' in log
    assert (tmp_path / 'full' / 'last_checkpoint').read_text().endswith('iter_5.pth')
    assert latest_checkpoint(str(tmp_path / 'full')).endswith('iter_5.pth')


def test_old_checkpoints_go_when_the_new_one_is_there(prune_config, tmp_path, monkeypatch):
    there = []
    put = WholeFileBackend.put

    def note(backend, obj, path):
        there.append(sorted(file.name for file in Path(path).parent.glob('iter_*.pth')))
        put(backend, obj, path)

    monkeypatch.setattr(WholeFileBackend, 'put', note)
    run(prune_config, tmp_path / 'keep', 4, options={'default_hooks.checkpoint': dict(
        type='mmprune.WholeCheckpointHook', interval=4, by_epoch=False, max_keep_ckpts=2)})
    names = [[], ['iter_4.pth'], ['iter_4.pth', 'iter_8.pth'], ['iter_12.pth', 'iter_8.pth']]
    assert there[:4] == names
    assert sorted(file.name for file in (tmp_path / 'keep').glob('iter_*.pth')) == ['iter_20.pth', 'iter_24.pth']


def test_torn_checkpoint_is_passed_over(tmp_path, caplog):
    assert latest_checkpoint(str(tmp_path)) is None
    for number in (1, 2, 3):
        torch.save(dict(state_dict=dict(weight=torch.randn(1000))), tmp_path / f'epoch_{number}.pth')
        os.utime(tmp_path / f'epoch_{number}.pth', (number, number))
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_3.pth'))
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_3.pth')
    content = (tmp_path / 'epoch_3.pth').read_bytes()
    (tmp_path / 'epoch_3.pth').write_bytes(content[:len(content) // 2])
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_2.pth')
    content = bytearray((tmp_path / 'epoch_2.pth').read_bytes())
    content[len(content) // 2] ^= 255  # whole by its length, not by its contents
    (tmp_path / 'epoch_2.pth').write_bytes(content)
    assert latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_1.pth')
    (tmp_path / 'epoch_1.pth').unlink()
    assert latest_checkpoint(str(tmp_path)) is None


def test_sigterm_saves_a_checkpoint_and_ends_with_its_status(prune_config, tmp_path):
    """Sent by a hook in iteration 7 of 24; then resumed, and compared with the run that was not interrupted."""
    script = tmp_path / 'run.py'
    script.write_text(f'''
import os, signal, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from pathlib import Path
import torch
from digits_runs import make_runner
from mmengine.hooks import Hook
from digits_runs import RESUME_OPTIONS as OPTIONS
from squares import Squares
torch.set_num_threads(1)
class Preempt(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 6:
            os.kill(os.getpid(), signal.SIGTERM)
runner = make_runner(Path({str(prune_config)!r}), Path({str(tmp_path / "work")!r}), {{
    **OPTIONS, 'default_hooks.checkpoint': dict(type='mmprune.WholeCheckpointHook', interval=1)}})
runner.register_hook(Preempt())
runner.train()
''')
    done = subprocess.run([sys.executable, '-W', 'ignore', str(script)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM, done.stderr[-2000:]
    assert latest_checkpoint(str(tmp_path / 'work')) == str(tmp_path / 'work' / 'iter_7.pth')
    resumed = run(prune_config, tmp_path / 'resumed', 100, resume=True,
                  load_from=latest_checkpoint(str(tmp_path / 'work')))
    assert min(resumed[2]) == 7
    assert_same_end(run(prune_config, tmp_path / 'whole', 100), resumed)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # a run puts the handler back


@pytest.mark.parametrize('workers', [0, 2])
def test_killed_run_ends_as_if_it_had_not_been(tmp_path, workers):
    """The script of benchmarks/, with fewer kills; the second of them while a checkpoint is being written."""
    results = tmp_path / 'results.json'
    done = subprocess.run([sys.executable, '-W', 'ignore', 'benchmarks/kill_and_resume.py', '--kills', '2',
                           '--images', '160', '--workers', str(workers), '--json', str(results)],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(results.read_text()) == [dict(
        workers=workers, kills=2, kills_during_a_write=1, iterations=True, weights_and_structure=True, optimizer=True)]


def test_training_tool_uses_whole_checkpoints(prune_config, tmp_path):
    from mmprune.engine.training_config import runner_config
    args = type('Args', (), dict(config=str(prune_config), cfg_options={}, launcher='none', local_rank=0,
                                 work_dir=str(tmp_path)))
    before = dict(os.environ)
    cfg = runner_config(args)
    for name in {*os.environ} - {*before}:
        del os.environ[name]
    assert cfg.default_hooks.checkpoint.type == 'mmprune.WholeCheckpointHook'
    assert issubclass(WholeCheckpointHook, Hook)
