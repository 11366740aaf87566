"""Pruned models of transformers: exact round trips through a folder; nothing else loads the weights in silence."""
import copy
import json

import pytest
import torch
from files_elsewhere import assert_files_compute
from torch import nn

from mmprune.arguments import UserError
from mmprune.deploy.onnx_export import DeployOutput, export_onnx
from mmprune.integrations.transformers import describe, load_pruned, save_pruned
from mmprune.models.checkpoint_file import CheckpointError
from mmprune.pruning.pruner import Pruner
from mmprune.units.equivalence import randomise
from mmprune.units.structure import StructureError

transformers = pytest.importorskip('transformers')
IMAGE = dict(pixel_values=torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
TEXT = dict(input_ids=torch.arange(12)[None] * 7 % 100, attention_mask=torch.ones(1, 12, dtype=torch.long))
SIZES = dict(num_hidden_layers=2, num_attention_heads=2, hidden_size=32, intermediate_size=64)
STAGES = dict(hidden_sizes=[16, 32, 64, 64], depths=[1, 1, 1, 1])
#: Class -> arguments of its config, and what the model is called with.
MODELS = {
    'ViTForImageClassification': (dict(SIZES, image_size=64), IMAGE),
    'ResNetForImageClassification': (dict(STAGES, embedding_size=16), IMAGE),
    'ConvNextForImageClassification': (STAGES, IMAGE),
    'SegformerForSemanticSegmentation': (dict(depths=[1, 1, 1, 1]), IMAGE),
    'BertForSequenceClassification': (dict(SIZES, vocab_size=100), TEXT),
    'SwinForImageClassification': (dict(
        image_size=64, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=4), IMAGE),
    'LlamaForCausalLM': (dict(SIZES, vocab_size=100, num_attention_heads=4, num_key_value_heads=2), TEXT),
    'GPT2LMHeadModel': (dict(vocab_size=100, n_embd=32, n_layer=2, n_head=2), TEXT)}


@pytest.fixture(autouse=True)
def quiet():
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def pruned(name='ViTForImageClassification', **target):
    torch.manual_seed(0)
    arguments, inputs = MODELS[name]
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**arguments)).eval()
    randomise(model, 0)
    pruner = Pruner(model, inputs, 'L2', **(target or dict(ratio=0.4)))
    pruner.cut()
    return pruner, inputs


@pytest.mark.parametrize('name', MODELS)
def test_round_trip(name, tmp_path):
    pruner, inputs = pruned(name)
    save_pruned(pruner, tmp_path)
    loaded = load_pruned(tmp_path)
    assert type(loaded) is type(pruner.model)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(**inputs)[0], pruner.model(**inputs)[0])
    assert loaded.config.mmprune == json.loads(json.dumps(pruner.model.config.mmprune))


def test_the_loaded_model_is_pruned_further(tmp_path):
    save_pruned(pruned()[0], tmp_path)
    pruner = Pruner(load_pruned(tmp_path), IMAGE, 'L2', 0.5)
    pruner.cut()
    model = describe(pruner)
    save_pruned(model, tmp_path)
    again = load_pruned(tmp_path)
    assert again.vit.layers[0].mlp.fc1.out_features == 20
    assert torch.equal(again(**IMAGE)[0], model(**IMAGE)[0])


def kinds(model):
    return {name.rpartition('#')[2] if '#' in name else '' for name in model.config.mmprune['cuts'][-1]['structure']}


@pytest.mark.parametrize('name', ['ViTForImageClassification', 'SwinForImageClassification', 'LlamaForCausalLM'])
def test_heads_their_dimensions_and_the_stream_travel(name, tmp_path):
    """Each head with dimensions of its own choice, also of tables that no file of weights holds."""
    pruner, inputs = pruned(name)
    assert kinds(describe(pruner)) >= {'heads', 'qk', 'v', ''}
    save_pruned(pruner, tmp_path)
    loaded = load_pruned(tmp_path)
    assert {key: tensor.shape for key, tensor in loaded.state_dict().items()} == {
        key: tensor.shape for key, tensor in pruner.model.state_dict().items()}
    for a, b in zip(loaded.named_buffers(), pruner.model.named_buffers()):
        assert a[0] == b[0]
        assert torch.equal(a[1], b[1])
    further = Pruner(loaded, inputs, 'L2', 0.3)
    further.cut()
    save_pruned(further, tmp_path)
    with torch.no_grad():
        assert torch.equal(load_pruned(tmp_path)(**inputs)[0], loaded(**inputs)[0])


def test_what_was_chosen_of_a_transformer_travels(tmp_path):
    pruner = pruned('ViTForImageClassification', ratio=0.4, choice=dict(attention=False, stream='kept'))[0]
    save_pruned(pruner, tmp_path)
    loaded = load_pruned(tmp_path)
    assert loaded.config.mmprune['cuts'][0]['choice'] == dict(attention=False, stream='kept')
    with torch.no_grad():
        assert torch.equal(loaded(**IMAGE)[0], pruner.model(**IMAGE)[0])


def test_tied_weights_stay_tied(tmp_path):
    save_pruned(pruned('GPT2LMHeadModel')[0], tmp_path)
    loaded = load_pruned(tmp_path)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight


def test_a_text_is_continued(tmp_path):
    pruner, inputs = pruned('GPT2LMHeadModel')
    save_pruned(pruner, tmp_path)
    texts = [model.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=0)
             for model in (pruner.model, load_pruned(tmp_path))]
    assert texts[0].shape == (1, 16)
    assert torch.equal(*texts)


def test_half_precision_stays(tmp_path):
    pruner = pruned()[0]
    model = describe(pruner).to(torch.bfloat16)
    save_pruned(model, tmp_path)
    loaded = load_pruned(tmp_path)
    assert loaded.dtype == torch.bfloat16
    images = IMAGE['pixel_values'].bfloat16()
    assert torch.equal(loaded(images)[0], model(images)[0])


@pytest.mark.parametrize('arguments', [{}, dict(ignore_mismatched_sizes=True)])
def test_transformers_itself_refuses_the_folder(arguments, tmp_path):
    save_pruned(pruned()[0], tmp_path)
    for kind in (transformers.AutoModelForImageClassification, transformers.ViTForImageClassification):
        with pytest.raises(OSError, match='no file named model.safetensors'):
            kind.from_pretrained(tmp_path, **arguments)


def test_the_config_is_that_of_the_dense_network(tmp_path):
    save_pruned(pruned()[0], tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config.intermediate_size == 64
    structure = config.mmprune['cuts'][0]['structure']
    assert {structure[f'vit.layers.{layer}.mlp.fc1_(0, 64)_64'] for layer in range(2)} == {39}
    assert sum('#heads' in name for name in structure) == sum('#qk' in name for name in structure) == 2
    assert json.loads((tmp_path / 'fix_subnet.json').read_text()) == config.mmprune['cuts'][0]['structure']


def test_a_checkpoint_of_plain_transformers_loads(tmp_path):
    """As a Trainer writes it; of more than one file."""
    model = describe(pruned()[0])
    model.save_pretrained(tmp_path, max_shard_size='20KB')
    assert len(list(tmp_path.glob('*.safetensors'))) > 1
    assert torch.equal(load_pruned(tmp_path)(**IMAGE)[0], model(**IMAGE)[0])
    with pytest.raises(RuntimeError, match='ignore_mismatched_sizes'):
        type(model).from_pretrained(tmp_path)


def test_mistakes_are_told(tmp_path):
    pruner = pruned()[0]
    with pytest.raises(StructureError, match='this ViTForImageClassification says nothing of a pruned model'):
        save_pruned(pruner.model, tmp_path)
    plain = Pruner(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)), torch.ones(1, 3, 4, 4), 'L2', 0.5)
    plain.cut()
    with pytest.raises(UserError, match='this Sequential is no model of transformers'):
        describe(plain)
    model = describe(pruner)
    other = copy.deepcopy(model)
    other.vit.layers[0].mlp.fc2 = nn.Sequential(other.vit.layers[0].mlp.fc2, nn.Tanh())
    with pytest.raises(CheckpointError, match='lack .* of the model, such as'):
        save_pruned(other, tmp_path / 'other')
    assert not list((tmp_path / 'other').iterdir())
    save_pruned(model, tmp_path)
    config = json.loads((tmp_path / 'config.json').read_text())
    (tmp_path / 'config.json').write_text(json.dumps(dict(config, architectures=['ViTForEverything'])))
    with pytest.raises(StructureError, match='which transformers does not have; give load_pruned its class'):
        load_pruned(tmp_path)
    assert torch.equal(load_pruned(tmp_path, type(model))(**IMAGE)[0], model(**IMAGE)[0])


@pytest.mark.parametrize('size', [None, 0, 100, 20000])
def test_weights_that_are_gone_or_torn_are_told(size, tmp_path):
    save_pruned(pruned()[0], tmp_path)
    weights = tmp_path / 'model.pruned.safetensors'
    if size is None:
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(CheckpointError, match='^folder: the weights in .* cannot be read'):
        load_pruned(tmp_path)


def test_without_mmprune_by_onnx_and_by_an_exported_program(tmp_path):
    model, image = pruned()[0].model, IMAGE['pixel_values']
    expected = model(image).logits.detach()
    torch.save((image, expected), tmp_path / 'expected.pth')
    export_onnx(model, image, tmp_path / 'model.onnx')
    program = torch.export.export(DeployOutput(model), (image,))  # the file needs no class of transformers
    torch.export.save(program, tmp_path / 'model.pt2')
    assert_files_compute(tmp_path, 'transformers')
