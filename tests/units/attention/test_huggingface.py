"""Transformers of the library of that name: heads, their dimensions and the stream are pruned; cut equals masked."""
import copy

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

from mmprune.graph.nested import output_tensors
from mmprune.units.attention.taking_over import forward_for, take_over
from mmprune.units.equivalence import random_masks

transformers = pytest.importorskip('transformers')
transformers.logging.set_verbosity_error()
GENERATOR = torch.Generator().manual_seed(0)
SMALL = dict(pixel_values=torch.randn(1, 3, 32, 32, generator=GENERATOR).double())
LARGE = dict(pixel_values=torch.randn(2, 3, 64, 64, generator=GENERATOR).double())
TEXT = dict(input_ids=torch.arange(12)[None] * 7 % 100)
FLAT = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40, image_size=32,
            patch_size=8)
RATIO = dict({key: value for key, value in FLAT.items() if key != 'intermediate_size'}, mlp_ratio=2)
STAGES = dict(image_size=64, depths=[1, 1, 1, 1], hidden_sizes=[12, 16, 24, 32], num_attention_heads=[1, 2, 3, 4])
PYRAMID = {key: value for key, value in STAGES.items() if key != 'image_size'}
WINDOWS = dict(image_size=32, patch_size=2, embed_dim=12, depths=[2, 2], num_heads=[2, 4], window_size=4)
WORDS = dict(vocab_size=100, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40)
GROUPED = dict(WORDS, num_key_value_heads=2, head_dim=8)
ALL = {'heads', 'qk', 'v', 'stream', ''}
SHOWN = ALL - {'stream'}  # the model returns its stream, too
#: class -> arguments of its config, what it is called with, what is pruned
MODELS = {
    'ViTForImageClassification': (FLAT, SMALL, ALL),
    'DeiTForImageClassification': (FLAT, SMALL, ALL),
    'Dinov2ForImageClassification': (RATIO, SMALL, ALL),
    'Dinov2WithRegistersForImageClassification': (RATIO, SMALL, ALL),
    'BeitForImageClassification': (dict(FLAT, use_relative_position_bias=True), SMALL, ALL),
    'Data2VecVisionForImageClassification': (dict(FLAT, use_relative_position_bias=True), SMALL, ALL),
    'SwinForImageClassification': (WINDOWS, SMALL, ALL),
    'Swinv2ForImageClassification': (WINDOWS, SMALL, ALL),
    'SegformerForSemanticSegmentation': (dict(PYRAMID, decoder_hidden_size=16), LARGE, ALL),
    'CLIPForImageClassification': (dict(vision_config=FLAT), SMALL, ALL),
    'SiglipForImageClassification': (dict(vision_config=dict(FLAT, vision_use_head=False)), SMALL, ALL),
    'MobileViTForImageClassification': (dict(
        hidden_sizes=[12, 16, 20], neck_hidden_sizes=[8, 8, 8, 12, 12, 16, 24], num_attention_heads=2, image_size=64),
        LARGE, ALL),
    'PvtForImageClassification': (STAGES, LARGE, ALL),
    'PvtV2ForImageClassification': (STAGES, LARGE, ALL),
    'GLPNForDepthEstimation': (dict(PYRAMID, decoder_hidden_size=8), LARGE, ALL),
    'DINOv3ViTModel': (dict(FLAT, num_register_tokens=2), SMALL, SHOWN),
    'ViTMAEModel': (dict(FLAT, mask_ratio=0.0), SMALL, SHOWN),
    'YolosForObjectDetection': (dict(FLAT, image_size=[32, 32], num_detection_tokens=4), SMALL, SHOWN),
    'DPTForDepthEstimation': (dict(
        FLAT, num_hidden_layers=4, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 12, 12],
        fusion_hidden_size=12, reassemble_factors=[2, 1, 1, 1], readout_type='ignore'), SMALL, ALL),
    'LevitForImageClassification': (dict(
        image_size=64, hidden_sizes=[16, 24, 32], num_attention_heads=[2, 3, 4], depths=[1, 1, 1], key_dim=[4, 4, 4]),
        LARGE, SHOWN),  # its stream has no layer norms, and is pruned as that of a convolutional network
    'CvtForImageClassification': (dict(
        embed_dim=[12, 16, 24], num_heads=[1, 2, 3], depth=[1, 2, 3], mlp_ratio=[2.0, 2.0, 2.0]), LARGE, ALL),
    'LlamaForCausalLM': (GROUPED, TEXT, ALL),
    'Qwen2ForCausalLM': (dict(WORDS, num_key_value_heads=4, tie_word_embeddings=True), TEXT, ALL),
    'Qwen3ForCausalLM': (GROUPED, TEXT, ALL),
    'BertForSequenceClassification': (WORDS, TEXT, ALL),
}
#: What computes in float32 whatever the model is in, in root mean square norms; mmprune keeps the precision.
ROUNDED = ('LlamaForCausalLM', 'Qwen2ForCausalLM', 'Qwen3ForCausalLM')


def small(name, **more):
    arguments, inputs, _ = MODELS[name]
    kind = getattr(transformers, name)
    return lambda: kind._from_config(kind.config_class(**arguments), **more), lambda model: model(**inputs)


@pytest.mark.parametrize('name', MODELS)
def test_pruned(name):
    make, forward = small(name)
    model = random_model(make)
    modules = assert_swap_computes_the_same(model, forward, 1e-6 if name in ROUNDED else 1e-12)
    assert any(hasattr(module, 'product') for module in modules)
    mutator = prepared(model, forward)
    assert parts(mutator) >= MODELS[name][2]
    assert_cut_equals_masked(mutator, forward)


@pytest.mark.parametrize('name', ['ConvNext', 'ConvNextV2'])
def test_the_stream_of_convnext_goes(name):
    """Its norms over maps have the layout as an attribute; in the second version it is all that goes."""
    kind = getattr(transformers, f'{name}ForImageClassification')
    config = kind.config_class(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1])

    def make():
        return kind._from_config(config)

    def forward(model):
        return model(**LARGE)

    model = random_model(make)
    assert_swap_computes_the_same(model, forward)
    mutator = prepared(model, forward)
    assert parts(mutator) == ({'stream', ''} if name == 'ConvNext' else {'stream'})
    assert_cut_equals_masked(mutator, forward)


@pytest.mark.parametrize('name', ['ViTForImageClassification', 'SwinForImageClassification', 'LlamaForCausalLM'])
def test_a_structure_is_rebuilt(name):
    make, forward = small(name)
    model = random_model(make)
    assert_structure_is_rebuilt(lambda: random_model(make), prepared(model, forward), forward)


@pytest.mark.parametrize('name', ['ViTForImageClassification', 'BeitForImageClassification',
                                  'SwinForImageClassification', 'Swinv2ForImageClassification',
                                  'SegformerForSemanticSegmentation', 'PvtV2ForImageClassification',
                                  'Data2VecVisionForImageClassification', 'LlamaForCausalLM'])
def test_attention_weights(name):
    """Those of the library; of a pruned model as many as it has heads."""
    make, _ = small(name, attn_implementation='eager')
    model, inputs = random_model(make), MODELS[name][1]
    expected = model(**inputs, output_attentions=True)
    taken = copy.deepcopy(model)
    take_over([module for module in taken.modules() if forward_for(module)])
    found = taken(**inputs, output_attentions=True)
    for a, b in zip(output_tensors(expected.attentions), output_tensors(found.attentions)):
        assert torch.allclose(a, b, atol=1e-6)
    assert torch.allclose(expected.logits, found.logits, atol=1e-5)
    mutator = prepared(model, lambda model: model(**inputs))
    mutator.cut(random_masks(mutator.units, 0.5, 0))
    last, before = (output_tensors(one.attentions)[-1] for one in (model(**inputs, output_attentions=True), expected))
    assert last.size(1) < before.size(1)
    assert torch.allclose(last.sum(-1), torch.ones_like(last.sum(-1)), atol=1e-6)


@pytest.mark.parametrize('name', ['LlamaForCausalLM', 'Qwen3ForCausalLM'])
def test_a_text_is_continued_from_the_cache(name):
    make, forward = small(name)
    model = random_model(make)
    prompt = torch.tensor([[0, 0, 5, 9, 3], [8, 2, 4, 6, 1]])
    seen = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    arguments = dict(input_ids=prompt, attention_mask=seen, max_new_tokens=6, do_sample=False, pad_token_id=0)
    before = model.generate(**arguments)
    mutator = prepared(model, forward)
    assert torch.equal(model.generate(**arguments), before)
    mutator.cut(random_masks(mutator.units, 0.5, 1))
    assert torch.equal(model.generate(**arguments), model.generate(**arguments, use_cache=False))


@pytest.mark.parametrize('kernel', ['sdpa', 'eager'])
def test_padding_is_not_seen(kernel):
    make, _ = small('BertForSequenceClassification', attn_implementation=kernel)
    model = random_model(make)
    inputs = dict(input_ids=TEXT['input_ids'].repeat(2, 1), attention_mask=torch.ones(2, 12, dtype=torch.long))
    inputs['attention_mask'][1, 7:] = 0
    expected = model(**inputs).logits
    assert_swap_computes_the_same(model, lambda model: model(**inputs), 1e-8)
    prepared(model, lambda model: model(**inputs))
    assert torch.allclose(model(**inputs).logits, expected)
    changed = dict(inputs, input_ids=inputs['input_ids'].clone())
    changed['input_ids'][1, 7:] = 3
    assert torch.allclose(model(**changed).logits, expected)


def test_other_kernels_stay():
    model = random_model(small('ViTForImageClassification')[0])
    attention = model.vit.layers[0].attention
    assert forward_for(attention) is not None
    attention.config._attn_implementation = 'flash_attention_2'
    assert forward_for(attention) is None
