"""What a prune run costs between ranks, counted; and what happens when one of them dies."""
import json
import os
import subprocess
import sys
import time

import pytest
from paths import ROOT, TESTS
from rank_runs import differing, dist_train, free_port, make_prune_config, ranks  # noqa: F401 (a fixture)

pytestmark = pytest.mark.long


@pytest.fixture(scope='module')
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp('costs')
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-m', 'torch.distributed.run', '--nproc_per_node=2',
         f'--master_port={free_port()}', str(TESTS / 'rank_costs.py'), str(folder)],
        env=dict(os.environ, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', PYTHONPATH=f'{TESTS}:{ROOT}',
                 ONEDNN_PRIMITIVE_CACHE_CAPACITY='0'),  # torch's CPU kernels are kept, one for each shape
        capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return [json.loads((folder / f'rank{rank}.json').read_text()) for rank in (0, 1)]


def test_one_all_reduce_an_event_and_nothing_else(reports):
    """200 events, each of which wraps the model again; gradients are DDP's own."""
    for report in reports:
        assert report['events'] == 200
        assert report['calls'] == {'all_reduce': 200}


def test_memory_is_flat_over_events(reports):
    for report in reports:
        early, late = report['memory']
        print(f'resident after 50 events {early / 2**20:.0f} MiB, after 200 {late / 2**20:.0f} MiB')
        assert late < early * 1.02 + 2**20


def test_ranks_with_uneven_images_stay_bit_equal(reports):
    first, second = reports
    assert first['structure'] == second['structure']
    assert sum(first['structure'].values()) == 4
    assert first['parameters'] == second['parameters']


def test_ranks_resume_bit_for_bit(prune_config):  # noqa: F811
    """From a checkpoint inside an epoch and inside an interval, with what each rank had accumulated."""
    folder = prune_config.parent
    options = ('--cfg-options', 'default_hooks.checkpoint.by_epoch=False', 'default_hooks.checkpoint.interval=7',
               'train_dataloader.dataset.indices=400')
    dist_train(prune_config, folder / 'whole', *options, misses=True)
    dist_train(prune_config, folder / 'again', '--resume', str(folder / 'whole' / 'iter_7.pth'), *options,
               misses=True)
    for whole, again in zip(ranks(folder / 'whole'), ranks(folder / 'again')):
        assert whole['iterations'] == again['iterations'] > 9
        assert differing(whole['state'], again['state']) == []
        assert again['losses'][-2:] == whole['losses'][-2:]


def test_death_of_a_rank_ends_all_within_a_minute(prune_config, tmp_path):  # noqa: F811
    config = tmp_path / 'dies.py'
    config.write_text(prune_config.read_text() + "custom_hooks.append(dict(type='mmprune.Dies', iteration=3))\n")
    began = time.monotonic()
    done = subprocess.run(
        ['bash', str(ROOT / 'tools/dist_train.sh'), str(config), '2', '--work-dir', str(tmp_path / 'work')],
        env=dict(os.environ, PYTHON=sys.executable, PORT=str(free_port()), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='',
                 PYTHONPATH=str(TESTS)), capture_output=True, text=True, timeout=120)
    died = float((tmp_path / 'work' / 'died').read_text())
    assert done.returncode != 0
    assert time.monotonic() - died < 60
    assert began < died
    assert 'exitcode  : -9' in done.stderr
    assert 'rank      : 1' in done.stderr


def test_death_of_a_worker_ends_the_run_with_its_cause(prune_config, tmp_path):  # noqa: F811
    config = tmp_path / 'dies.py'
    config.write_text(prune_config.read_text() + '''
custom_hooks.append(dict(type='mmprune.WorkerDies', iteration=3))
train_dataloader = dict(num_workers=1, persistent_workers=True)
''')
    done = subprocess.run([sys.executable, '-W', 'ignore', str(ROOT / 'tools/train.py'), str(config), '--work-dir',
                           str(tmp_path / 'work')], capture_output=True, text=True, timeout=120,
                          env=dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=f'{TESTS}:{ROOT}'))
    assert done.returncode != 0
    assert 'DataLoader worker' in done.stderr
    assert 'killed by signal' in done.stderr
