"""The configs of transformers: they read, fit together, and build models whose heads and stream are units."""
import json
from functools import lru_cache
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from paths import ROOT

from mmprune.config import plain
from mmprune.registry import MODELS
from mmprune.units.reasons import stay_shares

pytestmark = pytest.mark.full
FOLDER = ROOT / 'configs' / 'mmpretrain' / 'taylor'
PRUNE = sorted(path.name for path in FOLDER.glob('taylor_prune_*.py'))


@lru_cache(maxsize=None)
def read(name):
    pytest.importorskip('mmpretrain')
    return Config.fromfile(FOLDER / name)


def algorithm(name):
    cfg = read(name)
    init_default_scope(cfg.default_scope)
    model = plain(cfg.model)
    model['architecture'].pop('init_cfg', None)
    model['architecture']['backbone'].pop('init_cfg', None)
    model['mutator']['trial_cut'] = False  # the proof by a cut is for other tests
    return MODELS.build(model)


@pytest.mark.parametrize('name', ['deit-tiny_4xb256_in1k', 'swin-tiny_16xb64_in1k', 'vit-small-p14-dinov2_in1k'])
def test_models_are_pruned_whole(name):
    mutator = algorithm(f'taylor_prune_{name}.py').mutator
    assert {unit.channels.part for unit in mutator.units} == {'', 'heads', 'qk', 'v'}
    assert sum(stay_shares(mutator).values()) < 0.05
    assert any(member.axis.across for unit in mutator.units for member in unit.channels.members)


@pytest.mark.parametrize('name', PRUNE)
def test_stages_fit_together(name, tmp_path, monkeypatch):
    stem, cfg = name[:-len('.py')], read(name)
    assert cfg.model.mutator.channel_unit_cfg.mutate_linear is True
    assert cfg.custom_hooks[-1].target == dict(flops=0.5, max_pruned_ratio=0.75)
    finetune = read(name.replace('_prune_', '_finetune_'))
    assert finetune.pruned_path == f'work_dirs/{stem}/pruned.pth'
    assert finetune.train_cfg.max_epochs == finetune.param_scheduler[0].T_max
    monkeypatch.chdir(tmp_path)
    place = tmp_path / 'work_dirs' / stem.replace('_prune_', '_finetune_')
    place.mkdir(parents=True)
    (place / 'fix_subnet.json').write_text('{"made up": 1}')
    deploy = Config.fromfile(FOLDER / name.replace('_prune_', '_deploy_'))
    assert plain(deploy.model.architecture.backbone) == plain(cfg.model.architecture.backbone)
    assert deploy.model.mutate_linear is True


@pytest.mark.parametrize('name', PRUNE)
def test_weights_are_those_of_the_library(name):
    cfg = read(name)
    base = (FOLDER / name).read_text().split("_base_ = '")[1].split("'")[0]
    if base.startswith('./'):
        assert cfg.pretrained_path == f'work_dirs/{base[2:-3]}/epoch_10.pth'
        return
    folder = base.partition('::')[2].partition('/')[0]
    configs = Path(pytest.importorskip('mmpretrain').__path__[0]) / '.mim/configs'
    index = yaml.safe_load((configs / folder / 'metafile.yml').read_text())
    assert cfg.pretrained_path in [model.get('Weights') for model in index['Models']]
    get_config(base)


def test_what_was_pruned_is_deployed(tmp_path, monkeypatch):
    name = 'deit-tiny_4xb256_in1k'
    whole = algorithm(f'taylor_prune_{name}.py').mutator
    place = tmp_path / f'work_dirs/taylor_finetune_{name}'
    place.mkdir(parents=True)
    kept = {unit.name: unit.multiplicity * max(1, unit.num_sets // 2) for unit in whole.units}
    (place / 'fix_subnet.json').write_text(json.dumps(kept))
    monkeypatch.chdir(tmp_path)
    deploy = Config.fromfile(FOLDER / f'taylor_deploy_{name}.py')
    model = MODELS.build(plain(deploy.model))
    attention = model.backbone.layers[0].attn.product
    assert (attention.heads, attention.qk_dims, attention.v_dims) == (1, 32, 32)
    assert model.backbone.layers[0].ffn.layers[0][0].out_features == 384
