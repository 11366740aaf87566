"""Checkpoints hold tensors and plain values only; they are read without pickle, and resumed with it or without."""
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from digits_runs import RESUME_OPTIONS, make_runner, write_prune_config
from mmengine.logging import HistoryBuffer, MessageHub

from mmprune.engine.plain_checkpoint import pack, plain_value, unpack


def hub_of(values):
    hub = MessageHub.get_instance(f'plain_{len(values)}_{values[0]}')
    for value in values:
        hub.update_scalar('train/loss', value)
    hub.update_info('best', np.float32(0.5))
    return hub


def test_histories_and_numbers_go_there_and_back(tmp_path):
    meta = dict(iter=np.int64(3), dataset_meta=dict(sigmas=np.array([0.5, 0.25]), classes=('a', 'b')))
    checkpoint = dict(meta=meta, state_dict=OrderedDict(a=torch.ones(2)), message_hub=hub_of([3.0, 1.0]).state_dict())
    pack(checkpoint)
    torch.save(checkpoint, tmp_path / 'x.pth')
    loaded = torch.load(tmp_path / 'x.pth', weights_only=True)
    with zipfile.ZipFile(tmp_path / 'x.pth') as archive:
        assert b'numpy' not in archive.read('x/data.pkl')  # whose modules have other names in NumPy 1 and 2
    assert loaded['meta']['iter'] == 3
    assert loaded['meta']['dataset_meta'] == dict(sigmas=[0.5, 0.25], classes=('a', 'b'))
    assert loaded['message_hub']['runtime_info']['best'] == 0.5
    assert 'train/loss' not in loaded['message_hub']['log_scalars']
    unpack(loaded, meta['dataset_meta'])
    assert loaded['meta']['dataset_meta'] is meta['dataset_meta']
    again = MessageHub.get_instance('plain again')
    again.load_state_dict(loaded['message_hub'])
    buffer = again.get_scalar('train/loss')
    assert isinstance(buffer, HistoryBuffer)
    assert [part.tolist() for part in buffer.data] == [[3.0, 1.0], [1, 1]]
    assert buffer.mean() == 2.0
    buffer.update(5.0)
    assert again.state_dict()['log_scalars']['train/loss'].current() == 5.0


def test_checkpoint_of_mmengine_alone_is_left_as_it_is():
    state = hub_of([7.0]).state_dict()
    checkpoint = dict(meta=dict(iter=1, dataset_meta=dict(a=1)), message_hub=state)
    unpack(checkpoint, dict(a=2))
    assert checkpoint['message_hub']['log_scalars']['train/loss'].current() == 7.0
    assert checkpoint['meta']['dataset_meta'] == dict(a=1)
    bare = dict(state_dict=dict(a=torch.ones(1)))
    pack(bare), unpack(bare)
    assert list(bare) == ['state_dict']


def test_plain_values_keep_their_kind():
    value = dict(a=[np.arange(2), (np.bool_(True), None)], b=OrderedDict(c=np.float64(0.5)), d='x')
    assert plain_value(value) == dict(a=[[0, 1], (True, None)], b=OrderedDict(c=0.5), d='x')
    assert isinstance(plain_value(value)['b'], OrderedDict)
    assert plain_value(value)['a'][1][0] is True


@pytest.fixture(scope='module')
def pruned(tmp_path_factory):
    """A prune run to its target, with a checkpoint after 5 iterations."""
    folder = tmp_path_factory.mktemp('plain')
    config = write_prune_config(folder)
    saving = {'default_hooks.checkpoint': dict(type='mmprune.WholeCheckpointHook', interval=5, by_epoch=False)}
    runner = make_runner(config, folder / 'work', {**RESUME_OPTIONS, **saving})
    runner.train()
    return runner, folder / 'work'


def test_what_a_run_writes_is_read_without_pickle(pruned):
    """Also what it can be resumed from, with the log's history."""
    runner, folder = pruned
    files = sorted(folder.glob('*.pth'))
    assert {path.name for path in files} >= {'iter_5.pth', 'iter_10.pth'}
    for path in files:
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
        assert checkpoint['meta']['iter'] > 0
    history = torch.load(folder / 'iter_5.pth', weights_only=True)['mmprune']['log_scalars']['train/loss']['values']
    assert history.tolist() == runner.message_hub.get_scalar('train/loss').data[0][:5].tolist()
