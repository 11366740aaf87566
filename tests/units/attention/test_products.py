"""Products of attentions by their definitions, head by head, and how projections are packed."""
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mmprune.deploy.onnx_export import export_onnx
from mmprune.units.attention.place_products import FactorisedProduct, LinearProduct, PlaceProduct, size_after
from mmprune.units.attention.product import AttentionProduct
from mmprune.units.attention.products import (
    CosineProduct,
    CovarianceProduct,
    DimsFirstProduct,
    GatedPositionProduct,
    PooledProduct,
    TalkingProduct,
)
from mmprune.units.attention.rotary import Rotary

BATCH, TOKENS, HEADS, DIMS, VALUES = 2, 6, 3, 4, 5


def tokens(dims, count=TOKENS, seed=0):
    return torch.randn(BATCH, count, HEADS * dims, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


Q, K, V = tokens(DIMS), tokens(DIMS, seed=1), tokens(VALUES, seed=2)
RANDOM = torch.Generator().manual_seed(3)


def by_head(x):
    """Return one ``Tensor[B, N, dims]`` for each head."""
    return x.chunk(HEADS, -1)


def expected(read):
    """Return what heads read side by side, ``read(head, q, k, v)``."""
    return torch.cat([read(*parts) for parts in zip(range(HEADS), *map(by_head, (Q, K, V)))], -1)


def scores(q, k, scale=DIMS ** -0.5):
    return scale * q @ k.transpose(1, 2)


def plain(head, q, k, v):
    return scores(q, k).softmax(-1) @ v


def assert_close(left, right):
    assert torch.allclose(left, right, rtol=0, atol=1e-13)


def test_packed_projections():
    product = AttentionProduct(HEADS, DIMS, VALUES)
    for packed in ((Q, K, V), (torch.cat([Q, K, V], -1), ), (Q, torch.cat([K, V], -1)),
                   (torch.cat([Q, K], -1), None, V)):
        assert_close(product(*packed), expected(plain))
    head_first = torch.cat([part for parts in zip(*map(by_head, (Q, K, V))) for part in parts], -1)
    assert_close(AttentionProduct(HEADS, DIMS, VALUES, by_head=True)(head_first), expected(plain))
    keys_first = torch.cat([part for parts in zip(*map(by_head, (K, V))) for part in parts], -1)
    assert_close(AttentionProduct(HEADS, DIMS, VALUES, by_head=True)(Q, keys_first), expected(plain))


def test_the_scale_is_not_rounded():
    scaled = AttentionProduct(HEADS, DIMS, VALUES, 1 / 3).query(Q)
    assert torch.equal(scaled, Q * (torch.ones(1, dtype=torch.float64) / 3))


def test_heads_inside():
    out = DimsFirstProduct(HEADS, DIMS, VALUES)(Q, K, V)
    assert_close(out.unflatten(-1, (VALUES, HEADS)).transpose(-1, -2).flatten(-2), expected(plain))


def test_fewer_queries():
    product = PooledProduct(HEADS, DIMS, VALUES)
    out = product(Q, K, V, pool=lambda q: q.unflatten(1, (2, -1)).amax(1))
    assert_close(out, AttentionProduct(HEADS, DIMS, VALUES)(Q.unflatten(1, (2, -1)).amax(1), K, V))
    assert_close(product(Q, K, V), expected(plain))


def test_cosine():
    temperature, bias = torch.rand(HEADS, 1, 1, dtype=torch.float64), torch.rand(HEADS, TOKENS, TOKENS).double()

    def cosine(head, q, k, v):
        alike = F.cosine_similarity(q.unsqueeze(2), k.unsqueeze(1), dim=-1)
        return (alike * temperature[head] + bias[head]).softmax(-1) @ v

    assert_close(CosineProduct(HEADS, DIMS, VALUES)(Q, K, V, bias=bias, temperature=temperature), expected(cosine))


@pytest.mark.parametrize('layer', [nn.Linear(HEADS, HEADS), nn.Conv2d(HEADS, HEADS, 1)], ids=['linear', 'conv'])
def test_talking_heads(layer):
    layer, bias = layer.double(), torch.rand(HEADS, TOKENS, TOKENS).double()
    weight = layer.weight.view(HEADS, HEADS)

    def mixed(x):
        return torch.einsum('ij,bjnm->binm', weight, x) + layer.bias.view(-1, 1, 1)

    logits = torch.stack([scores(q, k) for q, k in zip(by_head(Q), by_head(K))], 1) + bias
    weights = mixed(mixed(logits).softmax(-1))
    out = TalkingProduct(HEADS, DIMS, VALUES)(Q, K, V, bias, before=layer, behind=layer)
    assert_close(out, expected(lambda head, q, k, v: weights[:, head] @ v))


def test_gated_position():
    position, gate = torch.rand(1, HEADS, TOKENS, TOKENS).double(), torch.rand(HEADS, 1, 1).double()

    def blended(head, q, k, v):
        share = gate[head].sigmoid()
        return ((1 - share) * scores(q, k).softmax(-1) + share * position[:, head].softmax(-1)) @ v

    assert_close(GatedPositionProduct(HEADS, DIMS, VALUES)(Q, K, V, position=position, gate=gate), expected(blended))


def test_over_channels():
    value, temperature = tokens(DIMS, seed=4), torch.rand(HEADS, 1, 1).double()
    unit = [F.normalize(x, dim=1) for x in (Q, K)]
    out = torch.cat([v @ ((q.transpose(1, 2) @ k) * temperature[head]).softmax(-1).transpose(1, 2) for head, (
        q, k, v) in enumerate(zip(*map(by_head, (*unit, value))))], -1)
    assert_close(CovarianceProduct(HEADS, DIMS)(torch.cat([Q, K, value], -1), temperature=temperature), out)
    scaled = CovarianceProduct(HEADS, DIMS, values_first=True)(torch.cat([value, Q, K], -1), scale=0.5)
    out = torch.cat([v @ (0.5 * q.transpose(1, 2) @ k).softmax(-1).transpose(1, 2) for q, k, v in zip(
        *map(by_head, (Q, K, value)))], -1)
    assert_close(scaled, out)


def test_without_a_softmax():
    value = tokens(DIMS, seed=4)
    packed = torch.cat([part for parts in zip(*map(by_head, (Q, K, value))) for part in parts], -1)
    out = []
    for q, k, v in zip(*map(by_head, (Q, K, value))):
        weights = q.relu() @ k.relu().transpose(1, 2)
        out.append(weights @ v / (weights.sum(-1, keepdim=True) + 1e-3))
    assert_close(LinearProduct(HEADS, DIMS, 1e-3)(packed, kernel=nn.ReLU()), torch.cat(out, -1))


def test_places():
    rows, columns = (torch.randn(count, DIMS, dtype=torch.float64) for count in (5, 3))

    def placed(head, q, k, v):
        places = [(i, j) for i in range(3) for j in range(2)]
        bias = torch.stack([torch.stack([q[:, n] @ (rows[i - a + 2] + columns[j - b + 1]) for a, b in places], -1)
                            for n, (i, j) in enumerate(places)], 1)
        return (scores(q, k) + bias).softmax(-1) @ v

    assert_close(PlaceProduct(HEADS, DIMS, VALUES)(Q, K, V, size=(3, 2), rows=rows, columns=columns), expected(placed))
    with_queries = PlaceProduct(HEADS, DIMS, DIMS)(Q, K, Q, size=(3, 2), residual=True)
    assert_close(with_queries, AttentionProduct(HEADS, DIMS, DIMS)(Q, K, Q) + Q)


def test_pools():
    conv, norm = nn.Conv2d(DIMS, DIMS, 3, 2, 1, groups=DIMS).double(), nn.LayerNorm(DIMS).double()
    pool = (conv, norm)
    assert size_after(pool, (3, 2)) == (2, 1)
    assert size_after(None, (3, 2)) == (3, 2)

    def pooled(x):
        return norm(conv(x.transpose(1, 2).unflatten(-1, (3, 2))).flatten(2).transpose(1, 2))

    out = PlaceProduct(HEADS, DIMS, VALUES)(Q, K, V, size=(3, 2), pools=(pool, None, None))
    assert_close(out, expected(lambda head, q, k, v: scores(pooled(q), k).softmax(-1) @ v))


def test_factorised():
    q, k, v = (tokens(DIMS, 7, seed) for seed in range(3))
    convs = [nn.Conv2d(heads * DIMS, heads * DIMS, 3, 1, 1, groups=heads * DIMS).double() for heads in (1, 2)]
    maps = v[:, 1:].transpose(1, 2).unflatten(-1, (3, 2))
    local = torch.cat([convs[0](maps[:, :DIMS]), convs[1](maps[:, DIMS:])], 1).flatten(2).transpose(1, 2)
    out = torch.cat([0.5 * a @ (b.softmax(1).transpose(1, 2) @ c) for a, b, c in zip(*map(by_head, (q, k, v)))], -1)
    out[:, 1:] += q[:, 1:] * local
    product = FactorisedProduct(HEADS, DIMS, 0.5)
    assert_close(product(torch.cat([q, k, v], -1), size=(3, 2), convs=convs), out)


@pytest.mark.parametrize('neighbours', [False, True])
def test_rotary(neighbours):
    angle = torch.randn(TOKENS, DIMS // 2, dtype=torch.float64, generator=RANDOM)
    angles = angle.repeat_interleave(2, -1) if neighbours else angle.repeat(1, 2)
    out = Rotary(HEADS, DIMS, neighbours)(Q, angles.cos(), angles.sin(), HEADS)
    pairs = [(0, 1), (2, 3)] if neighbours else [(0, 2), (1, 3)]
    for head in range(HEADS):
        for place, (a, b) in enumerate(pairs):
            x, y = Q[..., head * DIMS + a], Q[..., head * DIMS + b]
            turn = torch.complex(x, y) * torch.polar(torch.ones_like(angle), angle)[:, place]
            assert_close(out[..., head * DIMS + a], turn.real)
            assert_close(out[..., head * DIMS + b], turn.imag)


@pytest.mark.parametrize('masked', [False, True])
def test_a_file_leaves_the_scale_to_the_product(masked, tmp_path):
    onnx, runtime = pytest.importorskip('onnx'), pytest.importorskip('onnxruntime')
    product = AttentionProduct(HEADS, DIMS, VALUES).eval()
    if masked:
        product.query.weight[DIMS] = 0
    packed = torch.cat([Q, K, V], -1).float()
    export_onnx(product, packed, tmp_path / 'x.onnx')
    options = runtime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / 'optimised.onnx')
    session = runtime.InferenceSession(str(tmp_path / 'x.onnx'), options, providers=['CPUExecutionProvider'])
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: packed.numpy()})[0])
    assert torch.allclose(found, product(packed), atol=1e-6)
    operators = [node.op_type for node in onnx.load(str(tmp_path / 'optimised.onnx')).graph.node]
    assert ('Mul' in operators) == masked
    assert ('FusedMatMul' in operators) != masked
