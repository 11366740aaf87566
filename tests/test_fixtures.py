"""The fixtures themselves: what they refuse."""
import os

import pytest
import torch
from leaks import no_leaks


def test_changed_environment_fails_a_test_and_is_put_right(monkeypatch):
    monkeypatch.setenv('MMPRUNE_TOY_CHANGED', 'old')
    monkeypatch.setenv('MMPRUNE_TOY_GONE', 'old')
    guard = no_leaks()
    guard.__enter__()
    os.environ['MMPRUNE_TOY_CHANGED'] = 'new'
    os.environ['MMPRUNE_TOY_NEW'] = 'new'
    del os.environ['MMPRUNE_TOY_GONE']
    with pytest.raises(AssertionError, match=r"\['MMPRUNE_TOY_CHANGED', 'MMPRUNE_TOY_GONE', 'MMPRUNE_TOY_NEW'\]"):
        guard.__exit__(None, None, None)
    assert os.environ['MMPRUNE_TOY_CHANGED'] == os.environ['MMPRUNE_TOY_GONE'] == 'old'
    assert 'MMPRUNE_TOY_NEW' not in os.environ


def test_process_group_left_behind_fails_a_test_and_is_destroyed(tmp_path):
    with pytest.raises(AssertionError, match='left an initialised process group'), no_leaks():
        torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(('folder', 'message'), [
    ('', 'MMPRUNE_DATA does not name a folder'), ('no_such_folder', "names 'no_such_folder', which is no folder")])
def test_data_root_skips_with_a_message(monkeypatch, request, folder, message):
    monkeypatch.setenv('MMPRUNE_DATA', folder)
    monkeypatch.delenv('MMPRUNE_REQUIRE_DATA', raising=False)
    with pytest.raises(pytest.skip.Exception, match=message):
        request.getfixturevalue('data_root')


def test_data_root_fails_where_data_is_required(monkeypatch, request):
    monkeypatch.delenv('MMPRUNE_DATA', raising=False)
    monkeypatch.setenv('MMPRUNE_REQUIRE_DATA', '1')
    with pytest.raises(pytest.fail.Exception, match='MMPRUNE_DATA does not name a folder'):
        request.getfixturevalue('data_root')


def test_data_root_is_the_named_folder(monkeypatch, tmp_path, request):
    monkeypatch.setenv('MMPRUNE_DATA', str(tmp_path))
    assert request.getfixturevalue('data_root') == tmp_path
