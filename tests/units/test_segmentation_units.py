"""Units of mmseg's segmentors are cut exactly, their auxiliary heads with them."""
import pytest
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope

from mmprune.graph.detector_inputs import demo_input_of
from mmprune.models.from_config import read_config
from mmprune.registry import MODELS
from mmprune.report import proof as check
from mmprune.units.mutator import ChannelMutator

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings('ignore')]  # mmseg's own
#: config -> units, convolutions of auxiliary heads that read a unit
MODELS_OF_MMSEG = {
    'deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024': (23, 1),
    'deeplabv3plus/deeplabv3plus_r50-d8_4xb2-80k_cityscapes-512x1024': (48, 1),
    'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512': (8 + 5, 0),  # MLPs, and the head's convolutions
    'pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes': (38, 0),
    'unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024': (23, 1),
    'pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024': (19, 1),
    'fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024': (17, 1),
    'bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024': (21, 2)}


@pytest.mark.parametrize('name', MODELS_OF_MMSEG)
def test_segmentor_is_cut_exactly(name):
    pytest.importorskip('mmseg')
    cfg = read_config(f'mmseg::{name}.py')
    init_default_scope('mmseg')
    mutator = ChannelMutator(demo_input=demo_input_of(cfg.model, (1, 3, 64, 64)))
    mutator.prepare(MODELS.build(ConfigDict(cfg.model, _scope_='mmseg')))
    readers = {member.axis.layer for unit in mutator.units for member in unit.channels.consumers
               if member.axis.layer.startswith('auxiliary_head')}
    assert (len(mutator.units), len(readers)) == MODELS_OF_MMSEG[name]
    proof = check.prove(mutator, seeds=1)
    print(f'{name}: {proof.differences[0]:.1e} over {proof.units} units, {proof.share:.0%} of the MACs can go')
    assert proof.holds()
    assert proof.share > (0.8 if 'segformer' in name else 0.99)


def test_heads_that_run_in_training_only_keep_their_channels():
    """PIDNet's: in train mode its own forward runs two more heads, and takes no demo input of its own."""
    pytest.importorskip('mmseg')
    cfg = read_config('mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py')
    init_default_scope('mmseg')
    demo_input = demo_input_of(cfg.model, (1, 3, 64, 64))
    assert demo_input['type'] == 'mmprune.DemoInput'
    mutator = ChannelMutator(demo_input=demo_input)
    mutator.prepare(MODELS.build(ConfigDict(cfg.model, _scope_='mmseg')))
    reasons = {channels.name.split('_(')[0]: channels.reason for channels in mutator.frozen}
    assert 'training only' in reasons['decode_head.p_head.conv.conv']
    assert 'training only' in reasons['decode_head.d_head.conv.conv']
