"""Damaged files of torch.save: found by their checksums, which torch does not look at, and named in one line."""
import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import pytest
import torch
import toy_nets
from paths import TINY
from toy_nets import ToyClassifier

from mmprune.commands import convert_torchvision, train
from mmprune.models import checkpoint_file
from mmprune.models.checkpoint import load_weights, read_state_dict
from mmprune.models.checkpoint_file import CheckpointError, check_file, damage, read_file


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=dict(a=torch.arange(100.0), b=torch.ones(3))), path)
    return path


def message_of(call, *args):
    with pytest.raises(CheckpointError) as caught:
        call(*args)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_flipped_bit_of_a_tensor_is_found(path):
    place = path.read_bytes().index(struct.pack('<3f', 40, 41, 42))
    flip(path, place)
    assert torch.load(path, weights_only=True)['state_dict']['a'][40] != 40  # torch says nothing
    assert message_of(read_state_dict, str(path)) == (
        f"checkpoint: '{path}' is not a readable PyTorch checkpoint (the checksum of its record 'weights/data/0' is "
        'wrong); is the file complete?')
    assert message_of(check_file, path, 'load_from').startswith(f"load_from: '{path}' is not a readable")


def test_every_cut_and_every_torn_head_is_found(path):
    whole = path.read_bytes()
    assert damage(path) is None
    for end in range(4, len(whole), 97):
        path.write_bytes(whole[:end])
        assert damage(path) is not None, end
    for start in range(1, len(whole), 97):
        path.write_bytes(whole[start:])
        assert message_of(read_state_dict, str(path))


def test_file_of_an_old_torch_is_said_to_have_no_checksums(path, monkeypatch):
    said = []
    monkeypatch.setattr(checkpoint_file, 'print_log', lambda text, **kwargs: said.append(text))
    torch.save(dict(a=torch.arange(3.0)), path, _use_new_zipfile_serialization=False)
    assert read_file(path, 'checkpoint')['a'].tolist() == [0, 1, 2]
    assert said == [f'{path} is of a torch before 1.6, whose files have no checksums: if it is damaged, that may not '
                    'be seen']
    for size in (0, 10, len(path.read_bytes()) - 5):
        path.write_bytes(path.read_bytes()[:size])
        assert message_of(read_file, path, 'checkpoint').startswith(f"checkpoint: '{path}' is not a readable")


def rewritten(path, change):
    """Write a checkpoint with another pickle, its checksums right."""
    file = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(file, 'w') as other:
        for record in archive.infolist():
            content = archive.read(record)
            other.writestr(record.filename, change(content) if record.filename.endswith('data.pkl') else content)
    path.write_bytes(file.getvalue())


def test_storage_that_is_larger_than_its_record(path):
    """torch 2.0 reads on behind the record, into whatever lies there."""
    rewritten(path, lambda content: content.replace(b'Kd', b'M\x10\x27'))  # 100 numbers -> 10000
    assert '(its record data/0 has 400 bytes, and should have 40000)' in message_of(read_state_dict, str(path))


def test_sizes_are_read_without_running_the_pickle(path):
    class Harmful:
        def __reduce__(self):
            return exec, ('raise SystemExit',)

    torch.save(dict(a=torch.ones(2), b=Harmful(), c=OrderedDict(x=[{1, 2}])), path)
    assert checkpoint_file.wrong_storage(path) is None


@pytest.mark.parametrize(('place', 'value'), [(23, 127), (38, 0x10)])
def test_record_of_another_size_or_kind(place, value, path):
    """No checksum covers the directory: gigabytes, the highest byte of a compressed size; or the mark of a folder."""
    content = bytearray(path.read_bytes())
    entry = content.index(b'PK\x01\x02', content.index(b'PK\x01\x02') + 1)
    content[entry + place] = value
    path.write_bytes(content)
    assert 'has not the size that it says, or calls itself a folder)' in message_of(read_state_dict, str(path))


def test_no_flipped_bit_changes_a_value(tmp_path):
    """Of the directory and headers, too; every 23rd bit of a file."""
    path = tmp_path / 'x.pth'
    torch.save(dict(a=torch.arange(5.0), b=torch.tensor(3)), path)
    whole, loaded = path.read_bytes(), 0
    for bit in range(0, 8 * len(whole), 23):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            state = read_state_dict(str(path))
        except CheckpointError:
            continue
        loaded += 1
        assert list(state) == ['a', 'b']
        assert state['a'].tolist() == [0, 1, 2, 3, 4]
        assert state['b'] == 3
    assert loaded > 20  # dates, padding


def test_two_records_of_one_name(path):
    with zipfile.ZipFile(path, 'a') as archive, pytest.warns(UserWarning, match='Duplicate name'):
        archive.writestr('weights/data/0', b'')
    assert '(it has two records of one name)' in message_of(read_state_dict, str(path))


@pytest.mark.parametrize(('state', 'problem'), [
    ({'a': torch.ones(1), None: 1}, 'the key None is no name'), ({'a': torch.ones(1), 7: 1}, 'the key 7 is no name'),
    ({'a': torch.ones(1), 'module.a': torch.ones(1)}, "has the same key with and without 'module.'")])
def test_keys_that_are_none(state, problem, path):
    torch.save(dict(state_dict=state), path)
    assert problem in message_of(read_state_dict, str(path))


def test_unpickling_that_fails_otherwise_is_no_traceback(path):
    """A name that does not exist: weights_only refuses it, and pickle cannot find it."""
    content = pickle.dumps(OrderedDict(a=1), protocol=2).replace(b'OrderedDict', b'OrderedDuct')
    rewritten(path, lambda _: content)
    assert "Can't get attribute 'OrderedDuct'" in message_of(read_state_dict, str(path))


@pytest.mark.parametrize('name', ['a\0b', 'x' * 5000])
def test_name_that_no_file_can_have(name):
    assert message_of(read_state_dict, name).startswith('checkpoint: ')


@pytest.mark.filterwarnings('ignore:Validating sparse tensor invariants')
@pytest.mark.parametrize(('value', 'problem'), [
    (3, 'int in the file, torch.float32 in the model'), (torch.ones(6).long(), 'torch.int64 in the file'),
    (torch.ones(6).to(torch.complex64), 'torch.complex64 in the file'),
    (torch.ones(6).to_sparse(), 'a tensor that is not dense (torch.sparse_coo) in the file')])
def test_value_of_another_kind_changes_nothing(value, problem, path):
    model = ToyClassifier(toy_nets.Residual())
    state = {**model.state_dict(), 'net.stem.weight': torch.zeros(6, 3, 3, 3), 'net.bn0.weight': value}
    before = model.net.stem.weight.detach().clone()
    torch.save(state, path)
    message = message_of(load_weights, model, str(path))
    assert f'1 values are of another kind, first net.bn0.weight: {problem}' in message
    assert torch.equal(model.net.stem.weight, before)


def test_torn_download_is_named(monkeypatch, tmp_path):
    def torn(url, map_location):
        raise EOFError('Ran out of input')

    monkeypatch.setattr(checkpoint_file.CheckpointLoader, 'load_checkpoint', torn)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    url = 'https://example.org/weights.pth'
    assert message_of(read_state_dict, url) == f'checkpoint: {url} cannot be downloaded (Ran out of input)'
    (tmp_path / 'checkpoints').mkdir()
    kept = tmp_path / 'checkpoints' / 'weights.pth'
    torch.save(dict(a=torch.arange(100.0)), kept)
    flip(kept, kept.read_bytes().index(struct.pack('<2f', 40, 41)))
    assert message_of(read_state_dict, url).endswith(f'; delete {kept} if it is torn')
    monkeypatch.setattr(checkpoint_file.CheckpointLoader, 'load_checkpoint',
                        lambda url, map_location: torch.load(kept, weights_only=True))
    assert message_of(read_state_dict, url).endswith(f'is wrong); delete {kept}')


def test_training_does_not_begin_from_a_damaged_file(path, tmp_path, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')  # which the command sets
    flip(path, path.read_bytes().index(struct.pack('<2f', 40, 41)))
    for options, role in ((['--resume', str(path)], '--resume'), (['--cfg-options', f'load_from={path}'], 'load_from')):
        message = message_of(train.main, [str(TINY), '--work-dir', str(tmp_path / 'work'), *options])
        assert message.startswith(f"{role}: '{path}' is not a readable PyTorch checkpoint (the checksum of its record")


def test_converted_file_is_read_without_pickle(tmp_path):
    names = convert_torchvision.mobilenet_v2_names()
    torch.save({f'{name}.weight': torch.ones(1) for name in names}, tmp_path / 'theirs.pth')
    convert_torchvision.main([str(tmp_path / 'theirs.pth'), str(tmp_path / 'ours.pth')])
    converted = torch.load(tmp_path / 'ours.pth', weights_only=True)['state_dict']
    assert list(converted) == [f'{name}.weight' for name in names.values()]
