"""Repairs with two processes over gloo: all that they end with is equal, norm statistics too."""
import pytest
import torch
from digits_runs import INPUT_SHAPE, write_prune_config
from rank_runs import dist_train, ranks

pytestmark = pytest.mark.long

HEAD = '''
_base_ = {base!r}
'''
TAIL = '''
custom_hooks.append(dict(type='mmprune.RankProbe'))
custom_imports = dict(imports=['rank_probe'], allow_failed_imports=False)
train_dataloader = dict(dataset=dict(indices=160))
train_cfg = dict(max_epochs=2)
'''
RUNS = {
    'soft': f'''
from mmprune.config import schedule_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_, dict(type='mmprune.SoftPruningHook', rate_dist=0.4, repair=dict(images=40)), {{weights!r}}, {INPUT_SHAPE})
''',
    'group_fisher': f'''
from mmprune.config import prune_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, {{weights!r}}, 1, 'act', 0.001, 0.7, {INPUT_SHAPE}, repair=dict(images=40))
model['channels_per_event'] = 16
'''}


@pytest.mark.parametrize('name', RUNS)
def test_ranks_end_bit_equal(name, tmp_path):
    """The repair is the last that happens; until then each rank has batch statistics of its own."""
    write_prune_config(tmp_path)
    config = tmp_path / f'{name}.py'
    config.write_text((HEAD + RUNS[name] + TAIL).format(base=str(tmp_path / 'dense.py'),
                                                        weights=str(tmp_path / 'dense.pth')))
    dist_train(config, tmp_path / 'run')
    first, second = (rank['state'] for rank in ranks(tmp_path / 'run'))
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    log = '\n'.join(path.read_text() for path in (tmp_path / 'run').glob('*/*.log'))
    assert log.count('repair by 40 images') == 1
