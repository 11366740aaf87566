"""Prune and finetune with two processes through dist_train.sh, on CPU over gloo."""
import json

import pytest
from rank_runs import FINETUNE, differing, dist_train, launch, make_prune_config, ranks  # noqa: F401 (a fixture)

pytestmark = pytest.mark.long


@pytest.fixture(scope='module')
def pruned(prune_config):
    work_dir = prune_config.parent / 'prune'
    dist_train(prune_config, work_dir)
    return work_dir


def test_ranks_prune_the_same_and_stay_bit_equal(pruned):
    first, second = ranks(pruned)
    assert differing(first['state'], second['state']) == []
    assert first['iterations'] == second['iterations'] < 44  # ended at the target, inside its only epoch
    structure = json.loads((pruned / 'fix_subnet.json').read_text())
    kept = {key[len('mutator.kept.'):]: int(value.sum()) for key, value in first['state'].items() if '.kept.' in key}
    assert kept == structure
    assert sum(kept.values()) < sum(int(name.rsplit('_', 1)[1]) for name in kept)
    assert (pruned / 'flops_0.90.pth').is_file()


def test_ranks_see_different_data(pruned):
    """The bit-equality is the work of the synchronisation: each rank has its own losses."""
    first, second = ranks(pruned)
    assert len(first['losses']) == first['iterations']
    assert all(left != right for left, right in zip(first['losses'], second['losses']))


def test_a_run_without_gradient_sync_is_another_run(prune_config, pruned):
    work_dir = prune_config.parent / 'unsynchronised'
    dist_train(prune_config, work_dir, '--cfg-options', 'model_wrapper_cfg.type=mmprune.WithoutSync')
    first, second = ranks(work_dir)
    assert differing(first['state'], second['state'])
    assert differing(first['state'], ranks(pruned)[0]['state'])


def test_finetuning_keeps_ranks_bit_equal(prune_config, pruned):
    config = prune_config.parent / 'finetune.py'
    config.write_text(FINETUNE.format(prune=str(prune_config), pruned=str(pruned / 'flops_0.90.pth')))
    text = config.read_text() + "custom_hooks.append(dict(type='mmprune.RankProbe'))\n"
    config.write_text(text)
    work_dir = prune_config.parent / 'finetune'
    dist_train(config, work_dir)
    first, second = ranks(work_dir)
    assert differing(first['state'], second['state']) == []
    structure = json.loads((pruned / 'fix_subnet.json').read_text())
    assert json.loads((work_dir / 'fix_subnet.json').read_text()) == structure
    assert first['state']['backbone.conv1.weight'].shape[0] == structure['backbone.conv1_(0, 8)_8']

    # two processes test what one does
    accuracies = []
    for count in (1, 2):
        metrics = work_dir / f'metrics{count}.json'
        launch('dist_test.sh', str(config), str(work_dir / 'epoch_1.pth'), str(count), '--work-dir', str(work_dir),
               '--json', str(metrics))
        accuracies.append(json.loads(metrics.read_text())['accuracy/top1'])
    assert accuracies[0] > 10
    assert accuracies[0] == pytest.approx(accuracies[1])


def test_resumed_ranks_stay_bit_equal(prune_config):
    """The wrapper is built on the dense model, the checkpoint cuts it."""
    work_dir = prune_config.parent / 'resumed'
    target = 'custom_hooks.2.save_ckpt_thr=[0.3]'
    dist_train(prune_config, work_dir, '--cfg-options', target, misses=True)
    before = ranks(work_dir)[0]
    dist_train(prune_config, work_dir, '--resume', '--cfg-options', target, 'train_cfg.max_epochs=2', misses=True)
    first, second = ranks(work_dir)
    assert differing(first['state'], second['state']) == []
    assert first['iterations'] == 2 * before['iterations'] == 88
    kept = [sum(int(value.sum()) for key, value in run['state'].items() if '.kept.' in key) for run in (before, first)]
    assert kept[0] - kept[1] == 22  # one channel every second iteration
