"""What was written elsewhere goes on here: checkpoints, json files and configs, old names and all.

By mmprune 0.1.0 on torch 2.0.1, NumPy 1 and mmengine 0.10.7, and by the same configs on torch 2.14.1, NumPy 2 and
onedl-mmengine: both ways between the legacy and the full environment. The files were made by
`tests/files_of_0_1_0/make.py`, whose steps are run again here on what they left; what both wrote byte for byte alike
lies in that folder only.
"""
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from files_of_0_1_0 import make
from mmengine.config import Config
from paths import TESTS

import mmprune

#: Old names may be said to be old.
pytestmark = [pytest.mark.filterwarnings('ignore::DeprecationWarning'),
              pytest.mark.filterwarnings('ignore::FutureWarning')]
#: As the user wrote it, and as the Runner dumped it into the work dir.
both_forms = pytest.mark.parametrize('form', ['configs', 'configs/dumped'])
#: Another CPU or another torch rounds otherwise: 2.0 and 2.13 are 1e-7 apart here.
CLOSE = dict(rtol=1e-3, atol=1e-4)


@pytest.fixture(autouse=True, params=['files_of_0_1_0', 'files_of_torch_2_14'])
def expected(request, tmp_path, monkeypatch):
    """What the other side made of its files, with a copy of those as the current folder."""
    shutil.copytree(make.HERE, tmp_path / 'files')
    if request.param != make.HERE.name:
        shutil.copytree(TESTS / request.param, tmp_path / 'files', dirs_exist_ok=True)
    make.unpack(tmp_path / 'files')
    monkeypatch.chdir(tmp_path / 'files')
    return make.read_json('expected.json')


def assert_same_checkpoint(new, old):
    """Same structure and generators, close weights, and a close loss and score in every iteration on the way."""
    new = torch.load(new, map_location='cpu', weights_only=True)
    old = torch.load(old, map_location='cpu', weights_only=False)
    assert list(new['state_dict']) == list(old['state_dict'])
    for key, value in old['state_dict'].items():
        assert new['state_dict'][key].dtype == value.dtype
        if value.is_floating_point():
            torch.testing.assert_close(new['state_dict'][key], value, **CLOSE)
        else:
            assert torch.equal(new['state_dict'][key], value), key
    assert [new['meta'][key] for key in ('epoch', 'iter')] == [old['meta'][key] for key in ('epoch', 'iter')]
    packed = {name: scalar['values'] for name, scalar in new['mmprune']['log_scalars'].items()}
    before = {name: buffer.data[0] for name, buffer in old['message_hub']['log_scalars'].items()}
    scalars = [{name: values for name, values in one.items()
                if name in ('train/loss', 'train/pruned_score', 'train/pruned_unit', 'train/flops_ratio')}
               for one in (packed, before)]
    assert list(scalars[0]) == list(scalars[1])
    for name, values in scalars[1].items():
        np.testing.assert_allclose(scalars[0][name], values, rtol=1e-3, err_msg=name)
    states = [one['mmprune']['ranks'][0]['random'] for one in (new, old)]
    assert all(torch.equal(*(state[name][1] for state in states)) for name in ('python', 'numpy'))
    assert torch.equal(*(state['torch'] for state in states))


@both_forms
def test_prune_run_goes_on_as_it_did(form):
    """From inside an epoch and between two prune events: the data and the accumulators are those of before."""
    make.run(f'{form}/prune.py', 'new', resume=True, load_from='runs/prune/iter_7.pth')
    assert 'not bit for bit' not in next(Path('new').glob('*/*.log')).read_text()
    assert make.read_json('new/fix_subnet.json') == make.read_json('runs/prune/fix_subnet.json')
    assert_same_checkpoint('new/flops_0.75.pth', 'runs/prune/flops_0.75.pth')


@both_forms
def test_schedule_goes_on_as_it_did(form):
    """From between its second and its last round."""
    make.run(f'{form}/rounds.py', 'new', resume=True, load_from='runs/rounds/iter_9.pth')
    assert 'not bit for bit' not in next(Path('new').glob('*/*.log')).read_text()
    for name in ('fix_subnet.json', 'kept_channels.json'):
        assert make.read_json('new', name) == make.read_json('runs/rounds', name)
    assert_same_checkpoint('new/pruned.pth', 'runs/rounds/pruned.pth')


@both_forms
def test_pruned_checkpoint_is_finetuned(form, expected):
    for resume in (dict(), dict(resume=True, load_from='runs/finetune/epoch_1.pth')):
        runner = make.run(f'{form}/finetune.py', f'new_{len(resume)}', **resume)
        torch.testing.assert_close(make.logits(runner.model), expected['finetune'], **CLOSE)


@pytest.mark.parametrize('path', ['runs/rounds/pruned.pth', 'runs/rounds/iter_9.pth'])
def test_checkpoint_of_a_schedule_is_finetuned(path, tmp_path):
    (tmp_path / 'files/configs/other.py').write_text(f'''
_base_ = './rounds.py'
from mmprune.config import finetune_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = finetune_settings(_base_, {path!r}, 0.02)
train_cfg = dict(max_epochs=1)
''')
    runner = make.run('configs/other.py', 'new')
    kept = {key.rpartition('mutator.kept.')[2]: int(value.sum()) for key, value in torch.load(
        path, map_location='cpu', weights_only=False)['state_dict'].items() if '.kept.' in key}
    assert kept == make.read_json('new/fix_subnet.json') == runner.model.fix_subnet
    assert sum(kept.values()) < 24


@both_forms
def test_finetuned_checkpoint_is_deployed(form, expected):
    model = make.load_model(Config.fromfile(f'{form}/deploy.py'), 'runs/finetune/epoch_1.pth')
    torch.testing.assert_close(make.logits(model), expected['deploy'], **CLOSE)
    assert all(width % 4 == 0 for width in model.fix_subnet.values())


@pytest.mark.parametrize('name', make.SHORT)
def test_config_prunes_what_it_did(name, expected):
    make.run(f'configs/short/{name}.py', 'new')
    assert make.read_json('new/kept_channels.json') == expected['short'][name]


def test_structures_are_applied(expected):
    model = mmprune.apply_structure(make.dense_model(), make.images()[:1], 'kept.json')
    torch.testing.assert_close(make.logits(model), expected['cut'], **CLOSE)
    fresh = mmprune.apply_structure(make.dense_model(), make.images()[:1], 'counts.json')
    fresh.load_state_dict(model.state_dict())
    assert make.logits(fresh) == make.logits(model)


def test_structures_are_made_as_they_were(expected):
    before = [make.read_json(name) for name in ('counts.json', 'kept.json', 'schema.json')]
    make.make_structures(), make.make_schema()
    assert [make.read_json(name) for name in ('counts.json', 'kept.json', 'schema.json')] == before
