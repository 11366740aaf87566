"""Transformers of timm: heads, their dimensions and the stream are pruned, and the cut model is the masked one."""
import pytest
import torch
from attention_runtime import (
    assert_cut_equals_masked,
    assert_structure_is_rebuilt,
    assert_swap_computes_the_same,
    parts,
    prepared,
    random_model,
)

timm = pytest.importorskip('timm')
FLAT = dict(img_size=32, patch_size=16, depth=2, embed_dim=24, num_heads=3)
WINDOWS = dict(img_size=64, window_size=4, embed_dim=12, depths=(2, 1, 1, 1), num_heads=(3, 3, 6, 6))
FOUR = dict(embed_dims=(12, 24, 36, 48), num_heads=(3, 3, 3, 6), depths=(1, 1, 1, 1))
MAXXVIT = dict(img_size=64, embed_dim=(64, 64, 64, 64), depths=(1, 1, 1, 1))
ALL = {'heads', 'qk', 'v', 'stream', ''}
#: name -> arguments that make it small, the size of the image, what is pruned
MODELS = {
    'vit_tiny_patch16_224': (FLAT, 32, ALL),
    'vit_base_patch16_siglip_224': (FLAT, 32, ALL),
    'vit_relpos_small_patch16_224': (FLAT, 32, ALL),
    'swin_tiny_patch4_window7_224': (WINDOWS, 64, ALL),
    'swinv2_tiny_window8_256': (WINDOWS, 64, ALL),
    'swinv2_cr_tiny_ns_224': (WINDOWS, 64, ALL),
    'beit_base_patch16_224': (FLAT, 32, ALL),
    'eva02_base_patch14_224': (dict(FLAT, img_size=28, patch_size=14), 28, ALL - {''}),
    'cait_xxs24_224': (FLAT, 32, ALL),
    'xcit_nano_12_p16_224': (dict(img_size=32, depth=1, embed_dim=32, num_heads=4), 32, ALL),
    'pvt_v2_b0': (FOUR, 64, ALL),
    'twins_svt_small': (dict(FOUR, img_size=64, depths=(2, 1, 1, 1)), 64, ALL),
    'coatnet_0_rw_224': (dict(MAXXVIT, stem_width=16), 64, ALL),
    'davit_tiny': (FOUR, 64, ALL),
    'visformer_tiny': (dict(img_size=64, depth=(1, 1, 1), embed_dim=48), 64, ALL - {'stream'}),
    'convit_tiny': (dict(FLAT, depth=2, local_up_to_layer=1, embed_dim=8), 32, ALL),
    'hiera_tiny_224': (dict(img_size=(64, 64), embed_dim=12, num_heads=3, stages=(1, 1, 2, 1)), 64, ALL),
    'coat_lite_tiny': (dict(img_size=64, embed_dims=(16, 32, 48, 64), serial_depths=(1, 1, 1, 1)), 64,
                       ALL - {'qk'}),
    'samvit_base_patch16': (dict(img_size=64, embed_dim=24, num_heads=3, depth=2, global_attn_indexes=(1, )), 64, ALL),
}


def small(name):
    arguments, size, _ = MODELS[name]
    return lambda: timm.create_model(name, num_classes=5, **arguments), torch.randn(
        2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize('name', MODELS)
def test_masked_equals_cut(name):
    make, image = small(name)
    model = random_model(make)

    def forward(model):
        return model(image)

    assert_swap_computes_the_same(model, forward)
    mutator = prepared(model, forward)
    assert parts(mutator) == MODELS[name][2]
    assert_cut_equals_masked(mutator, forward)


@pytest.mark.parametrize('name', ['vit_tiny_patch16_224', 'swinv2_tiny_window8_256', 'davit_tiny'])
def test_structure_is_rebuilt(name):
    make, image = small(name)
    assert_structure_is_rebuilt(lambda: random_model(make), prepared(random_model(make), lambda model: model(image)),
                                lambda model: model(image))
