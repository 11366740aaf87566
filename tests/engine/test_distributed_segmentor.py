"""Two processes prune a segmentor on a CPU: its synchronised norms become plain ones, its auxiliary head follows."""
import json

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from rank_runs import differing, dist_train, ranks
from segmentation_runs import SIZE, dense_config, write_shapes

from mmprune.models.from_config import read_config
from mmprune.registry import MODELS

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings('ignore')]  # mmseg's own
PRUNE = '''
_base_ = {dense!r}
interval = 2
from mmprune.config import prune_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, {weights!r}, interval, 'flops', 0.5, 0.95, (1, 3, {size}, {size}))
custom_hooks.append(dict(type='mmprune.RankProbe'))
custom_imports = dict(imports=['rank_probe'], allow_failed_imports=False)
'''


def test_ranks_prune_a_segmentor_with_synchronised_norms(tmp_path):
    pytest.importorskip('mmseg')
    dense = tmp_path / 'dense.py'
    dense.write_text(dense_config('deeplabv3plus', write_shapes(tmp_path / 'shapes')))
    cfg = read_config(str(dense))
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(cfg.model))
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules())
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'dense.pth')
    config = tmp_path / 'prune.py'
    config.write_text(PRUNE.format(dense=str(dense), weights=str(tmp_path / 'dense.pth'), size=SIZE))
    dist_train(config, tmp_path / 'run')
    first, second = ranks(tmp_path / 'run')
    assert differing(first['state'], second['state']) == []
    statistics = [key for key in first['state'] if 'running_mean' in key]
    assert any(not torch.equal(first['state'][key], second['state'][key]) for key in statistics)  # each rank's own
    structure = json.loads((tmp_path / 'run' / 'fix_subnet.json').read_text())
    dropped = sum(int(name.rsplit('_', 1)[1]) - count for name, count in structure.items())
    assert first['iterations'] == second['iterations'] == 2 * dropped
    assert dropped > 3
    assert all(left != right for left, right in zip(first['losses'], second['losses']))
