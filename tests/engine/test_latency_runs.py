"""Runs with a target in time: they end at it, in whole blocks, and a resumed run or another rank measures nothing."""
import json
from dataclasses import replace

import pytest
import torch
from digits_runs import INPUT_SHAPE, make_runner, write_prune_config
from layer_runtime import FakeRuntime
from rank_runs import differing, dist_train, ranks
from schedule_runs import run, state_of, write_config

from mmprune.arguments import UserError
from mmprune.engine.hook import ResourceInfoHook
from mmprune.engine.schedules.iterative import OneShotPruningHook
from mmprune.latency import meter

pytestmark = pytest.mark.long

BLOCK = 4
#: Noise, so that whatever is measured twice differs.
RUNTIME = dict(type='FakeRuntime', block=BLOCK, networks=8, noise=0.01)
X = torch.randn(INPUT_SHAPE)


def is_in_blocks(structure):
    return all(count % BLOCK == 0 for count in structure.values())


def share_of_dense(algorithm):
    """Return the share of the dense time of a pruned model, without noise."""
    from mmprune.latency.pruned_copy import PrunedCopy
    copy, exact = PrunedCopy(algorithm.mutator), FakeRuntime()
    pruned = exact.exact_ms(exact.prepare(copy.cut_to(algorithm.mutator.sets), X, None), X)
    return pruned / exact.exact_ms(exact.prepare(copy.cut_to(copy.dense()), X, None), X)


@pytest.fixture(scope='module', name='folder')
def make_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('latency')
    write_prune_config(folder)
    return folder


@pytest.mark.parametrize('name', ['one-shot', 'iterative', 'layer-by-layer'])
def test_schedules_reach_a_time_and_write_what_they_measured(folder, tmp_path, name):
    schedules = {
        'one-shot': dict(type='mmprune.OneShotPruningHook', criterion='L2', target=dict(latency=0.7), runtime=RUNTIME),
        'iterative': dict(type='mmprune.IterativePruningHook', criterion='L2', target=dict(latency=0.7), rounds=2,
                          runtime=RUNTIME),
        'layer-by-layer': dict(type='mmprune.LayerByLayerPruningHook', criterion='L2', target=dict(latency=0.7),
                               by_epoch=False, runtime=RUNTIME)}
    runner = run(write_config(folder, name, schedules[name]), tmp_path)
    structure = runner.model.mutator.structure
    assert is_in_blocks(structure)
    assert 0.5 < share_of_dense(runner.model) < 0.75
    measured = json.loads((tmp_path / 'latency.json').read_text())
    assert measured['table']['runtime']['runtime'] == 'fake'
    assert bool(measured['shares']) == (name != 'layer-by-layer')
    assert json.loads((tmp_path / 'fix_subnet.json').read_text()) == structure


def test_a_target_that_is_no_time_needs_the_block_only(folder, tmp_path, monkeypatch):
    schedule = dict(type='mmprune.IterativePruningHook', criterion='L2', target=dict(flops=0.6, align='auto'), rounds=2,
                    epochs=2, runtime={key: value for key, value in RUNTIME.items() if key != 'block'})
    config = write_config(folder, 'block', schedule)
    monkeypatch.setattr('mmprune.latency.meter.measure_table', None)
    monkeypatch.setattr('mmprune.latency.meter.measured_block', lambda runtime: 4)
    whole = run(config, tmp_path / 'run')
    assert is_in_blocks(whole.model.mutator.structure)
    assert json.loads((tmp_path / 'run' / 'latency.json').read_text()) == dict(block=4)
    monkeypatch.setattr('mmprune.latency.meter.measured_block', None)
    for gone in (False, True):  # what the checkpoint lacks is in the file, and what the file lacks in the checkpoint
        if gone:
            (tmp_path / 'run' / 'latency.json').unlink()
        again = run(config, tmp_path / 'run', resume=True, load_from=str(tmp_path / 'run' / 'iter_3.pth'))
        (first, structure), (second, other) = state_of(whole), state_of(again)
        assert structure == other
        assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize('bad', [1, 2, 3])
def test_a_table_of_a_busy_machine_is_measured_again_and_never_kept(folder, tmp_path, monkeypatch, bad):
    config = write_config(folder, 'busy', dict(
        type='mmprune.OneShotPruningHook', criterion='L2', target=dict(latency=0.7), runtime=RUNTIME))
    measured = []

    def disturbed(*args, measure_table=meter.measure_table, **kwargs):
        table = measure_table(*args, **kwargs)
        measured.append(table)
        if len(measured) <= bad:
            table.calibration = replace(table.calibration, largest_error=0.2)
        return table

    monkeypatch.setattr(meter, 'measure_table', disturbed)
    if bad < 3:
        run(config, tmp_path)
        assert json.loads((tmp_path / 'latency.json').read_text())['table']['calibration']['largest_error'] < 0.1
    else:
        with pytest.raises(UserError, match='was wrong by 20%'):
            run(config, tmp_path)
        assert not (tmp_path / 'latency.json').exists()
    assert len(measured) == min(bad + 1, 3)


def test_a_resumed_schedule_measures_nothing_again(folder, tmp_path, monkeypatch):
    schedule = dict(type='mmprune.IterativePruningHook', criterion='L2', target=dict(latency=0.7), rounds=2, epochs=2,
                    runtime=RUNTIME)
    config = write_config(folder, 'resumed', schedule)
    whole = run(config, tmp_path / 'run')
    monkeypatch.setattr('mmprune.latency.meter.measure_table', None)
    monkeypatch.setattr('mmprune.latency.meter.measure', None)
    for checkpoint in ('iter_3.pth', 'iter_12.pth'):  # before the second round, and behind it
        again = run(config, tmp_path / 'run', resume=True, load_from=str(tmp_path / 'run' / checkpoint))
        (first, structure), (second, other) = state_of(whole), state_of(again)
        assert structure == other
        assert all(torch.equal(value, second[key]) for key, value in first.items())


GROUP_FISHER = f'''
_base_ = {{base!r}}
from mmprune.config import prune_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, {{weights!r}}, 1, 'latency', 0.5, input_shape={INPUT_SHAPE}, target_latency=0.9, runtime={{runtime!r}})
train_dataloader = dict(batch_size=8, dataset=dict(indices=400))
val_dataloader = dict(dataset=dict(indices=100))
test_dataloader = dict(dataset=dict(indices=100))
'''


def group_fisher_config(folder, more=''):
    path = folder / 'group_fisher.py'
    path.write_text(GROUP_FISHER.format(base=str(folder / 'dense.py'), weights=str(folder / 'dense.pth'),
                                        runtime=RUNTIME) + more)
    return path


def test_group_fisher_by_time_ends_at_its_target_and_resumes_bit_equal(folder, tmp_path, monkeypatch):
    config = group_fisher_config(folder)
    checkpoint = dict(type='mmprune.WholeCheckpointHook', interval=2, by_epoch=False, max_keep_ckpts=-1)
    options = {'default_hooks.checkpoint': checkpoint, 'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None}
    whole = make_runner(config, tmp_path, options)
    whole.train()
    assert whole.model.block == BLOCK
    assert is_in_blocks(whole.model.mutator.structure)
    assert 0.8 < share_of_dense(whole.model) <= 0.9 * 1.05
    assert (tmp_path / 'latency_0.90.pth').exists()
    monkeypatch.setattr('mmprune.latency.meter.measure_table', None)
    monkeypatch.setattr('mmprune.latency.meter.measure', None)
    again = make_runner(config, tmp_path, options, resume=True, load_from=str(tmp_path / 'iter_2.pth'))
    again.train()
    first, second = whole.model.state_dict(), again.model.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_block_that_leaves_nothing_to_remove_gives_way_and_survives_a_resume(folder, tmp_path, monkeypatch):
    config = group_fisher_config(folder)
    checkpoint = dict(type='mmprune.WholeCheckpointHook', interval=2, by_epoch=False, max_keep_ckpts=-1)
    options = {'default_hooks.checkpoint': checkpoint, 'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None,
               'model.align': 'auto', 'model.mutator.channel_unit_cfg.normalization_type': 'flops',
               'custom_hooks.2.resource_type': 'flops', 'custom_hooks.2.save_ckpt_thr': [0.6],
               'custom_hooks.2.runtime.block': 64}  # no layer is wider
    monkeypatch.setattr('mmprune.latency.meter.measure_table', None)  # no time counts
    whole = make_runner(config, tmp_path, options)
    whole.train()
    taken = whole.model.block
    assert taken in (32, 16, 8, 4)
    assert json.loads((tmp_path / 'latency.json').read_text()) == dict(block=64)
    assert (tmp_path / 'flops_0.60.pth').exists()
    log = (tmp_path / whole.timestamp / f'{whole.timestamp}.log').read_text()
    assert 'no structure in blocks of 64 channels, as the runtime wants them, meets the target' in log
    assert f'channels go in blocks of {taken}' in log
    monkeypatch.setattr('mmprune.engine.hook.largest_block', None)
    again = make_runner(config, tmp_path, options, resume=True, load_from=str(tmp_path / 'iter_2.pth'))
    again.train()
    first, second = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_a_table_that_was_wrong_is_corrected_and_the_correction_survives_a_resume(folder, tmp_path, monkeypatch):
    """Cut networks take a twentieth longer than the table can know; one checkpoint lies behind the correction."""
    config = group_fisher_config(folder)
    checkpoint = dict(type='mmprune.WholeCheckpointHook', interval=1, by_epoch=False, max_keep_ckpts=-1)
    options = {'default_hooks.checkpoint': checkpoint, 'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None,
               'custom_hooks.2.runtime.lie': 1.05, 'custom_hooks.2.save_ckpt_thr': [0.95]}
    whole = make_runner(config, tmp_path, options)
    whole.train()
    assert 1.05 * share_of_dense(whole.model) <= 0.95 * 1.05
    shares = json.loads((tmp_path / 'latency.json').read_text())['shares']
    assert len(shares) > 1  # the first one was too slow
    last = whole.iter
    monkeypatch.setattr('mmprune.latency.meter.measure_table', None)
    monkeypatch.setattr('mmprune.latency.meter.measure', None)
    for iteration in (last - 1, 1):
        again = make_runner(config, tmp_path, options, resume=True, load_from=str(tmp_path / f'iter_{iteration}.pth'))
        again.train()
        first, second = whole.model.state_dict(), again.model.state_dict()
        assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_two_ranks_stay_bit_equal_by_what_one_measures(tmp_path):
    write_prune_config(tmp_path)
    config = group_fisher_config(tmp_path, '''
custom_hooks.append(dict(type='mmprune.RankProbe'))
custom_imports = dict(imports=['rank_probe', 'layer_runtime'], allow_failed_imports=False)
''')
    dist_train(config, tmp_path / 'run')
    first, second = ranks(tmp_path / 'run')
    assert differing(first['state'], second['state']) == []
    assert is_in_blocks(json.loads((tmp_path / 'run' / 'fix_subnet.json').read_text()))


def test_what_is_missing_is_said_before_a_model_is_built():
    with pytest.raises(UserError, match="nothing says where: give runtime=dict"):
        OneShotPruningHook('L2', dict(latency=0.5))
    with pytest.raises(UserError, match='nothing says where it is measured'):
        ResourceInfoHook(resource_type='latency')
