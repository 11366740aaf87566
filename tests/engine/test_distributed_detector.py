"""Two processes prune a detector while each sees images of its own size."""
import json

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from paths import TESTS
from rank_runs import differing, dist_train, ranks

from mmprune.registry import MODELS

pytestmark = pytest.mark.full
PRUNE = '''
_base_ = {dense!r}
interval = 2
from mmprune.config import prune_settings
model, model_wrapper_cfg, optim_wrapper, custom_hooks = prune_settings(
    _base_, {weights!r}, interval, 'flops', 0.5, 0.9, (1, 3, 96, 96))
custom_hooks.append(dict(type='mmprune.RankProbe'))
custom_imports = dict(imports=['rank_probe', 'uneven_images'], allow_failed_imports=False)
'''


def test_ranks_with_images_of_different_sizes_prune_the_same_and_stay_bit_equal(tmp_path):
    """Costs come from the traced input, not from the images: scores are divided by the same numbers on both ranks."""
    pytest.importorskip('mmdet')
    dense = TESTS / 'configs' / 'tiny_retinanet.py'
    cfg = Config.fromfile(dense, import_custom_modules=False)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(dict(cfg.model, _scope_='mmdet'))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'dense.pth')
    config = tmp_path / 'prune.py'
    config.write_text(PRUNE.format(dense=str(dense), weights=str(tmp_path / 'dense.pth')))
    dist_train(config, tmp_path / 'run')
    first, second = ranks(tmp_path / 'run')
    assert [run['sizes'] for run in (first, second)] == [[(64, 96)], [(128, 64)]]
    assert differing(first['state'], second['state']) == []
    kept = [{key: value.tolist() for key, value in run['state'].items() if '.kept.' in key} for run in (first, second)]
    assert kept[0] == kept[1]
    structure = json.loads((tmp_path / 'run' / 'fix_subnet.json').read_text())
    assert {key[len('mutator.kept.'):]: sum(vector) for key, vector in kept[0].items()} == structure
    dropped = sum(vector.count(0) for vector in kept[0].values())
    assert first['iterations'] == second['iterations'] == 2 * dropped
    assert dropped > 3
    assert all(left != right for left, right in zip(first['losses'], second['losses']))
