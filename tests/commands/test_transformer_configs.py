"""The configs of transformers: they read, fit together, and build models whose heads and stream are units."""
import json
from functools import lru_cache
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope
from paths import ROOT

from mmprune.config import plain
from mmprune.registry import MODELS
from mmprune.units.reasons import stay_shares

pytestmark = [pytest.mark.full, *(pytest.mark.filterwarnings(f'ignore:.*{text}') for text in (  # the libraries' own
    'deprecated', 'build_loss', 'avg_non_ignore', 'meshgrid', 'set embed_dims', 'new_tensor'))]
CONFIGS = ROOT / 'configs'
#: The folders of these configs, by library.
FOLDERS = ('mmpretrain/taylor', *(f'{library}/group_fisher_attention' for library in (
    'mmpretrain', 'mmdet', 'mmpose', 'mmseg')))
PRUNE = sorted(path.relative_to(CONFIGS).as_posix() for folder in FOLDERS for path in (CONFIGS / folder).glob(
    '*_prune_*.py'))
SWIN, DINO = (f'mmpretrain/taylor/taylor_prune_{name}_in1k.py' for name in ('swin-tiny_16xb64', 'vit-small-p14-dinov2'))
DEIT, DETR, RTMPOSE, SEGFORMER = (f'{library}/group_fisher_attention/group_fisher_flops_prune_{name}.py' for (
    library, name) in (('mmpretrain', 'deit-tiny_4xb256_in1k'), ('mmdet', 'detr_r50_8xb2-150e_coco'),
                       ('mmpose', 'rtmpose-s_8xb256-420e_coco-256x192'),
                       ('mmseg', 'segformer_mit-b0_8xb2-160k_ade20k-512x512')))
#: Sizes of images that are enough to find units.
SMALL = {DETR: (1, 3, 128, 128), SEGFORMER: (1, 3, 128, 128)}


@lru_cache(maxsize=None)
def read(name):
    pytest.importorskip(name.partition('/')[0])
    return Config.fromfile(CONFIGS / name)


def algorithm(name):
    cfg = read(name)
    model = plain(cfg.model)
    model['architecture'].pop('init_cfg', None)
    model['architecture']['backbone'].pop('init_cfg', None)
    model['mutator']['trial_cut'] = False  # the proof by a cut is for other tests
    if name in SMALL:
        model['mutator']['demo_input']['input_shape'] = SMALL[name]
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(model)


#: Name -> kinds of units that it must have, share of the multiply-adds that no unit touches at most.
WHOLE = {DEIT: ({'', 'heads', 'qk', 'v'}, 0.05), SWIN: ({'', 'heads', 'qk', 'v'}, 0.05),
         DINO: ({'', 'heads', 'qk', 'v'}, 0.05), DETR: ({'', 'heads', 'qk', 'v'}, 0.05),
         RTMPOSE: ({''}, 0.05), SEGFORMER: ({'', 'heads', 'qk', 'v'}, 0.1)}


@pytest.mark.parametrize('name', WHOLE)
def test_models_are_pruned_whole(name):
    parts, most = WHOLE[name]
    mutator = algorithm(name).mutator
    assert {unit.channels.part for unit in mutator.units} == parts
    assert sum(stay_shares(mutator).values()) < most
    assert any(member.axis.across for unit in mutator.units for member in unit.channels.members)


@pytest.mark.parametrize('name', PRUNE)
def test_stages_fit_together(name, tmp_path, monkeypatch):
    stem, cfg = Path(name).stem, read(name)
    assert cfg.model.mutator.channel_unit_cfg.mutate_linear is True
    finetune = read(name.replace('_prune_', '_finetune_'))
    if 'taylor' in name:
        assert cfg.custom_hooks[-1].target == dict(flops=0.5, max_pruned_ratio=0.75)
        assert finetune.pruned_path == f'work_dirs/{stem}/pruned.pth'
        assert finetune.train_cfg.max_epochs == finetune.param_scheduler[0].T_max
    else:
        assert cfg.custom_hooks[-1].save_ckpt_thr == [0.5]
        assert cfg.model.channels_per_event == cfg.channels_per_event
        assert finetune.pruned_path == f'work_dirs/{stem}/flops_0.50.pth'
        assert plain(finetune.train_cfg) == plain(cfg.dense_schedule.train_cfg)
    monkeypatch.chdir(tmp_path)
    place = tmp_path / 'work_dirs' / stem.replace('_prune_', '_finetune_')
    place.mkdir(parents=True)
    (place / 'fix_subnet.json').write_text('{"made up": 1}')
    deploy = Config.fromfile(CONFIGS / name.replace('_prune_', '_deploy_'))
    backbones = [dict(plain(one.model.architecture.backbone), frozen_stages=None) for one in (deploy, cfg)]
    assert backbones[0] == backbones[1]  # but for what does not train
    assert deploy.model.mutate_linear is True


@pytest.mark.parametrize('name', PRUNE)
def test_weights_are_those_of_the_library(name):
    cfg = read(name)
    base = (CONFIGS / name).read_text().split("_base_ = '")[1].split("'")[0]
    if base.startswith('./'):
        assert cfg.pretrained_path == f'work_dirs/{base[2:-3]}/epoch_10.pth'
        return
    package, _, path = base.partition('::')
    folder = (Path(pytest.importorskip(package).__path__[0]) / '.mim/configs' / path).parent
    weights = [model.get('Weights') for metafile in folder.glob('*.y*ml')
               for model in yaml.safe_load(metafile.read_text())['Models']]
    assert cfg.pretrained_path in weights
    get_config(base)


def test_what_was_pruned_is_deployed(tmp_path, monkeypatch):
    name = 'mmpretrain/taylor/taylor_{}_deit-tiny_4xb256_in1k.py'
    whole = algorithm(name.format('prune')).mutator
    place = tmp_path / 'work_dirs' / Path(name.format('finetune')).stem
    place.mkdir(parents=True)
    kept = {unit.name: unit.multiplicity * max(1, unit.num_sets // 2) for unit in whole.units}
    (place / 'fix_subnet.json').write_text(json.dumps(kept))
    monkeypatch.chdir(tmp_path)
    deploy = Config.fromfile(CONFIGS / name.format('deploy'))
    model = MODELS.build(plain(deploy.model))
    attention = model.backbone.layers[0].attn.product
    assert (attention.heads, attention.qk_dims, attention.v_dims) == (1, 32, 32)
    assert model.backbone.layers[0].ffn.layers[0][0].out_features == 384
