"""Every detection and pose prune config prunes in the real Runner on real images, and is rebuilt from what it wrote."""
import json
import math

import pytest
import torch
from detection_runs import CHANNELS, CONFIGS, ITERATIONS_AN_EPOCH, pruned_channels, run_config
from mmengine.hooks import EMAHook

from mmprune.models.prune_deploy_sub_model import GroupFisherDeploySubModel
from mmprune.report import proof as check
from mmprune.units.equivalence import outputs, relative_difference

pytestmark = [pytest.mark.full, pytest.mark.data]
MMDET, MMPOSE = 'mmdet/group_fisher/', 'mmpose/group_fisher/group_fisher_prune_'
#: Heads, dimensions and streams go, too.
DETR, RTMPOSE = (f'{library}/group_fisher_attention/group_fisher_flops_prune_{name}.py' for library, name in (
    ('mmdet', 'detr_r50_8xb2-150e_coco'), ('mmpose', 'rtmpose-s_8xb256-420e_coco-256x192')))
RETINANET = CONFIGS / MMDET / 'retinanet/group_fisher_act_retinanet_r50_fpn_1x_coco.json'
#: Of these: kinds of units, and the stream of the one, the queries and keys of the other.
ATTENTION = {DETR: ({'', 'heads', 'qk', 'v'}, 'neck.convs.0.conv_(0, 256)_256'),
             RTMPOSE: ({''}, 'head.gau.uv_(1024, 1152)_128')}
#: prune config -> units, groups of channels that stay
UNITS = {
    f'{MMDET}retinanet/group_fisher_act_prune_retinanet_r50_fpn_1x_coco.py': (47, 3),
    f'{MMDET}retinanet/group_fisher_flops_prune_retinanet_r50_fpn_1x_coco.py': (47, 3),
    f'{MMDET}fsaf/group_fisher_act_prune_fsaf_r50_fpn_1x_coco.py': (47, 3),
    f'{MMDET}atss/group_fisher_act_prune_atss_r50_fpn_1x_coco.py': (47, 4),
    f'{MMDET}atss/group_fisher_act_prune_atss_r50_fpn_no-gn_1x_coco.py': (47, 4),
    f'{MMDET}paa/group_fisher_act_prune_paa_r50_fpn_1x_coco.py': (47, 4),
    f'{MMDET}paa/group_fisher_act_prune_paa_r50_fpn_no-gn_1x_coco.py': (47, 4),
    f'{MMDET}faster_rcnn/group_fisher_act_prune_faster-rcnn_r50_fpn_1x_coco.py': (42, 5),
    f'{MMDET}mask_rcnn/group_fisher_act_prune_mask-rcnn_r50_fpn_1x_coco.py': (47, 6),
    f'{MMDET}yolox/group_fisher_act_prune_yolox_s_8xb8-300e_coco.py': (67, 10),
    f'{MMDET}rtmdet/group_fisher_act_prune_rtmdet_s_8xb32-300e_coco.py': (57, 7),
    f'{MMDET}ssd/group_fisher_act_prune_ssd300_coco.py': (22, 14),
    f'{MMPOSE}rtmpose-s_8xb256-420e_aic-coco-256x192.py': (28, 8),
    f'{MMPOSE}rtmpose-s_8xb256-420e_coco-256x192.py': (28, 8),
    f'{MMPOSE}rtmpose-t_8xb256-420e_coco-256x192.py': (26, 8),
    f'{MMPOSE}td-hm_hrnet-w32_8xb64-210e_coco-256x192.py': (131, 2),
    f'{MMPOSE}td-hm_res50_8xb64-210e_coco-256x192.py': (40, 2),
    DETR: (106, 3), RTMPOSE: (31, 5)}
#: In these heads GroupNorm ties the channels of a group.
GROUP_NORM = ('atss_r50_fpn_1x', 'paa_r50_fpn_1x')
#: Units in backbone, neck and heads.
PARTS = {'yolox_s': (28, 27, 12), 'rtmdet_s': (28, 25, 4), 'ssd300': (14, 8, 0), 'faster-rcnn': (37, 2, 3),
         'mask-rcnn': (37, 2, 8)}
#: Validated with the evaluator of the config; those with an averaged copy, on that copy.
VALIDATED = ('group_fisher_act_prune_retinanet', 'mask-rcnn', 'yolox_s', 'rtmdet_s', 'rtmpose-s')
AVERAGED = ('yolox_s', 'rtmdet_s', 'rtmpose-s')
#: Transforms that the switch of the last epochs takes away.
SWITCHED_OFF = {'yolox_s': ['Mosaic', 'RandomAffine', 'MixUp'], 'rtmdet_s': ['CachedMosaic', 'CachedMixUp'],
                'rtmpose-': []}


def is_one_of(name, kinds):
    return next((kind for kind in kinds if kind in name), None)


def test_every_config_is_here():
    assert sorted(UNITS) == sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob('*prune*.py')
                                   if path.relative_to(CONFIGS).parts[:2] in {
                                       (library, folder) for library in ('mmdet', 'mmpose')
                                       for folder in ('group_fisher', 'group_fisher_attention')})


@pytest.mark.filterwarnings('ignore:.*num_anchors', 'ignore:torch.meshgrid', 'ignore:The metainfo config file',
                            'ignore:.*deprecated', 'ignore:.*set embed_dims',
                            'ignore:To copy construct')
@pytest.mark.parametrize('name', UNITS)
def test_config_prunes_on_real_images(name, data_root, tmp_path):
    runner, probe = run_config(name, data_root, tmp_path / 'run', validate=is_one_of(name, VALIDATED) is not None)
    mutator = runner.model.mutator
    assert (len(mutator.units), len(mutator.frozen)) == UNITS[name]
    assert check.unaccounted_layers(mutator) == []
    check_units(name, mutator)
    assert probe.pruned == list(range(1, CHANNELS + 1))  # the last of them inside the second epoch
    assert len(probe.pipelines) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in probe.losses)
    assert len(probe.scored) == CHANNELS
    assert min(probe.scored) > 0.6  # the loss reaches every part; channels that are 0 everywhere score 0
    saved = torch.load(tmp_path / 'run/flops_0.50.pth', weights_only=False)
    averaged = next((hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)), None)
    assert (averaged is not None) == (is_one_of(name, AVERAGED) is not None)
    kept = runner.model if averaged is None else averaged.module
    check_saved(saved['state_dict'], kept)
    if averaged is not None:
        check_averaged(saved, runner.model, kept)
    check_switched(name, runner.model, probe)
    check_validated(name, saved['state_dict'], probe)
    check_rebuilt(runner.cfg.model, json.loads((tmp_path / 'run/fix_subnet.json').read_text()), saved, kept)
    (tmp_path / 'run/flops_0.50.pth').unlink()


def check_units(name, mutator):
    """The pyramids of one stage have the units of the published RetinaNet; the others have them in all their parts."""
    names = [unit.name for unit in mutator.units]
    if name in ATTENTION:
        parts, unit = ATTENTION[name]
        assert {unit.channels.part for unit in mutator.units} == parts
        assert unit in names
        return
    tied = {unit.multiplicity for unit in mutator.units if 'head' in unit.name}
    assert tied <= {8 if is_one_of(name, GROUP_NORM) else 1}
    kind = is_one_of(name, PARTS)
    if kind is not None:
        parts = [sum(unit.startswith(part) for unit in names) for part in ('backbone.', 'neck.')]
        assert (*parts, len(names) - sum(parts)) == PARTS[kind]
    elif name.startswith('mmdet/'):
        assert names == list(json.loads(RETINANET.read_text()))
    if 'rcnn' in name:
        assert [unit.partition('_(')[0] for unit in names if 'rpn' in unit or 'fcs' in unit] == [
            'rpn_head.rpn_conv', 'roi_head.bbox_head.shared_fcs.0', 'roi_head.bbox_head.shared_fcs.1']


def check_saved(state, model):
    """What is saved is the model, or its averaged copy, tensor by tensor."""
    wanted = model.state_dict()
    assert list(state) == list(wanted)
    assert [key for key in wanted if not torch.equal(state[key], wanted[key])] == []


def check_averaged(saved, model, copy):
    """The copy has the widths of the model but is not the model, which is saved beside it."""
    assert copy.mutator.structure == model.mutator.structure
    own, averaged = model.architecture.state_dict(), copy.architecture.state_dict()
    assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in averaged.items()}
    assert any(not torch.equal(own[key], averaged[key]) for key in own)
    assert all(torch.equal(saved['ema_state_dict'][f'module.architecture.{key}'], own[key]) for key in own)


def check_switched(name, model, probe):
    """The second epoch has the pipeline of the last epochs, and pruning went on in it."""
    first, second = probe.pipelines
    kind = is_one_of(name, SWITCHED_OFF)
    if kind is None:
        assert first == second
        return
    assert [transform for transform in first if transform not in second] == SWITCHED_OFF[kind]
    assert probe.pruned[-1] > probe.pruned[ITERATIONS_AN_EPOCH - 1]
    if kind == 'yolox_s':
        assert model.architecture.bbox_head.use_l1 is True


def check_validated(name, state, probe):
    """The config's own evaluator ran, on the tensors that are saved."""
    if is_one_of(name, VALIDATED) is None:
        assert probe.validated is None
        return
    assert [key for key, value in state.items()
            if key.startswith('architecture.') and not torch.equal(value, probe.validated[key])] == []
    metrics = ['coco/AP'] if 'rtmpose' in name else ['coco/bbox_mAP']
    metrics += ['coco/segm_mAP'] if 'mask-rcnn' in name else []
    assert all(0 <= probe.metrics[metric] <= 1 for metric in metrics)


def check_rebuilt(cfg, structure, saved, model):
    """The structure and the checkpoint make a plain model that computes the same."""
    mutator = model.mutator
    assert structure == mutator.structure
    assert pruned_channels(mutator) == CHANNELS
    rebuilt = GroupFisherDeploySubModel(cfg.architecture, structure, demo_input=cfg.mutator.demo_input,
                                        mutate_linear=cfg.mutator.channel_unit_cfg.mutate_linear)
    rebuilt.load_state_dict({key.partition('architecture.')[2]: value for key, value in saved['state_dict'].items()
                             if key.startswith('architecture.')})
    wanted, found = (outputs(part, mutator.demo_input, False) for part in (model.architecture, rebuilt))
    assert relative_difference(wanted, found) == 0
    assert all(bool((tensor != tensor.flatten()[0]).any()) for tensor in found if tensor.numel() > 1)
