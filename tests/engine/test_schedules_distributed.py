"""Schedules with two processes over gloo: one decision, the same weights."""
import json

import pytest
from digits_runs import INPUT_SHAPE, write_prune_config
from rank_runs import differing, dist_train, ranks

pytestmark = pytest.mark.long

CONFIG = f'''
_base_ = {{base!r}}
from mmprune.config import schedule_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = schedule_settings(
    _base_, {{schedule!r}}, {{weights!r}}, {INPUT_SHAPE})
custom_hooks.append(dict(type='mmprune.RankProbe'))
custom_imports = dict(imports=['rank_probe'], allow_failed_imports=False)
train_dataloader = dict(dataset=dict(indices=160))
train_cfg = dict(max_epochs=3, val_interval=1)
'''
SCHEDULES = {
    # least squares on each rank's own activations: batch statistics are each rank's own
    'layer_by_layer': dict(type='mmprune.LayerByLayerPruningHook', criterion='ThiNet', target=dict(ratio=0.4),
                           by_epoch=False, interval=2, batches=2),
    'iterative': dict(type='mmprune.IterativePruningHook', criterion='Taylor', target=dict(flops=0.5), rounds=2,
                      start=1, batches=2),
    'soft': [dict(type='mmprune.SoftPruningHook', rate_dist=0.4), dict(type='mmprune.SparsityTrainingHook', s=0.01)],
}


@pytest.mark.parametrize('name', SCHEDULES)
def test_ranks_stay_bit_equal(name, tmp_path):
    write_prune_config(tmp_path)
    config = tmp_path / f'{name}.py'
    config.write_text(CONFIG.format(base=str(tmp_path / 'dense.py'), weights=str(tmp_path / 'dense.pth'),
                                    schedule=SCHEDULES[name]))
    dist_train(config, tmp_path / 'run')
    first, second = ranks(tmp_path / 'run')
    assert differing(first['state'], second['state']) == []
    assert first['losses'] != second['losses']
    structure = json.loads((tmp_path / 'run' / 'fix_subnet.json').read_text())
    assert sum(structure.values()) < 0.85 * sum(int(key.rpartition('_')[2]) for key in structure)
