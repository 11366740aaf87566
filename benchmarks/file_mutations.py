"""Ways to spoil a file, drawn from a seed: for `mutated_files.py`."""
import io
import json
import pickle
import random
import struct
import sys
import zipfile
from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch

#: What may stand where a number, a name or a list is expected.
ODD = (0, -1, 1, 2, 3, 7, 10**9, -10**9, 2**63, 10**30, 1e9, 0.5, 4.0, float('nan'), float('inf'), None, True, False,
       '', '4', 'a\0b', 'x' * 5000, [], [1], [0, 4], [3, 3], [-1], ['0'], {}, {'a': 1}, [[[]]], '../stem', 'ü')
#: How bytes are spoiled.
FLIPS = ('flip', 'flip', 'flip', 'truncate', 'drop', 'insert', 'blank', 'swap', 'twice', 'empty', 'other')
#: How a file is spoiled without regard to what it says.
BY_BYTES = (*FLIPS, 'pickle', *(f'before 1.6: {kind}' for kind in FLIPS))
Random = random.Random


def spoil_bytes(content: bytes, rng: Random, others: Sequence[bytes]) -> Tuple[str, bytes]:
    """Return how, and other bytes; ``others`` are files of other kinds and models."""
    kind = rng.choice(FLIPS)
    data, size = bytearray(content), len(content)
    first, length = rng.randrange(size), rng.randint(1, max(1, size // 8))
    if kind == 'flip':
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            data[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == 'truncate':
        del data[rng.choice([first, size - 1, max(0, size - 22)]):]
    elif kind == 'drop':
        del data[first:first + length]
    elif kind == 'insert':
        data[first:first] = rng.randbytes(min(length, 64))
    elif kind == 'blank':
        data[first:first + length] = bytes([rng.choice([0, 255])]) * len(data[first:first + length])
    elif kind == 'swap':
        data[:] = data[first:] + data[:first]
    elif kind == 'twice':
        data += bytes(data)
    elif kind == 'empty':
        data.clear()
    else:
        data[:] = rng.choice(others)
    return kind, bytes(data)


def spoil_json(content: bytes, rng: Random) -> Tuple[str, bytes]:
    """Return how, and another json object."""
    pairs = [list(pair) for pair in json.loads(content).items()]
    kind = rng.choice(['value', 'value', 'name', 'swap names', 'swap values', 'add', 'remove', 'repeat', 'prefix',
                       'deep', 'digits', 'entry'])
    one, two = rng.choice(pairs), rng.choice(pairs)
    if kind == 'value':
        one[1] = rng.choice([*ODD, rng.randint(-2, 9), rng.randint(-2, 9)])
    elif kind == 'name':
        one[0] = rng.choice([two[0], one[0][:-1], one[0] + '#2', f'net.{one[0]}', str(rng.choice(ODD))])
    elif kind == 'swap names':
        one[0], two[0] = two[0], one[0]
    elif kind == 'swap values':
        one[1], two[1] = two[1], one[1]
    elif kind == 'add':
        pairs.append([str(rng.choice(ODD)), rng.choice(ODD)])
    elif kind == 'remove':
        pairs.remove(one)
    elif kind == 'repeat':
        pairs.append([one[0], rng.choice([one[1], *ODD])])
    elif kind == 'prefix':
        prefix = rng.choice(['net.', 'a.b.', 'x', 'stem.'])
        pairs = [[prefix + name, value] for name, value in pairs]
    elif kind == 'deep':
        depth = rng.choice([10, 10**5])
        return kind, b'[' * depth + b']' * rng.choice([0, depth])
    elif kind == 'digits':
        return kind, json.dumps({one[0]: 0}).replace('0}', '1' * rng.choice([20, 5000]) + '}').encode()
    elif isinstance(one[1], list) and one[1]:
        one[1][rng.randrange(len(one[1]))] = rng.choice([*ODD, rng.randint(-1, 8), rng.randint(-1, 8)])
    rows = ',\n'.join(f'    {json.dumps(name)}: {json.dumps(value)}' for name, value in pairs)
    return kind, f'{{\n{rows}\n}}\n'.encode()


def spoil_state(content: bytes, rng: Random) -> Tuple[str, bytes]:
    """Return how, and a checkpoint with other keys or values, in today's format or in that before torch 1.6."""
    checkpoint = torch.load(io.BytesIO(content), map_location='cpu', weights_only=False)
    state: Dict[Any, Any] = dict(checkpoint['state_dict'])
    kind = rng.choice(['tensor', 'tensor', 'tensor', 'value', 'rename', 'remove', 'swap', 'add', 'whole', 'module'])
    key, other = rng.choice(list(state)), rng.choice(list(state))
    if kind == 'tensor':
        name, change = rng.choice(TENSORS)
        kind, state[key] = f'tensor: {name}', change(state[key])
    elif kind == 'value':
        state[key] = rng.choice(ODD)
    elif kind == 'rename':
        state[rng.choice([key[:-1], f'{key}x', f'module.{other}', 7, None, ('a', 1)])] = state.pop(key)
    elif kind == 'remove':
        del state[key]
    elif kind == 'swap':
        state[key], state[other] = state[other], state[key]
    elif kind == 'add':
        state[rng.choice(['mutator.kept.x', 'mutator.units.0.mutable_channel.mask', 'x', f'{key}.x'])] = rng.choice(
            [*ODD, torch.ones(3)])
    elif kind == 'module':
        state = {f'module.{name}': value for name, value in state.items()}
    checkpoint['state_dict'] = rng.choice([*ODD, list(state.values())]) if kind == 'whole' else state
    file = io.BytesIO()
    torch.save(checkpoint if rng.random() < 0.8 else checkpoint['state_dict'], file,
               _use_new_zipfile_serialization=rng.random() < 0.8)
    return kind, file.getvalue()


#: Other tensors of a tensor.
TENSORS: List[Tuple[str, Callable[[torch.Tensor], Any]]] = [
    ('half', lambda x: x.half()), ('double', lambda x: x.double()), ('int', lambda x: x.long()),
    ('bool', lambda x: x.bool()), ('byte', lambda x: x.to(torch.uint8)), ('complex', lambda x: x.to(torch.complex64)),
    ('flat', lambda x: x.reshape(-1)), ('more', lambda x: torch.cat([x.reshape(-1), x.reshape(-1)])),
    ('less', lambda x: x[1:] if x.dim() else x), ('none', lambda x: x.reshape(-1)[:0]), ('one', lambda x: x.reshape(
        -1)[0] if x.numel() else x), ('huge', lambda x: x.reshape(-1)[:1].expand(10**12)),
    ('sparse', lambda x: x.to_sparse() if x.dim() else x),
    ('turned', lambda x: x.transpose(0, 1) if x.dim() > 1 else x),
    ('nan', lambda x: torch.full_like(x.float(), float('nan'))), ('zeros', torch.zeros_like), ('ones', torch.ones_like),
    ('twos', lambda x: x + 2), ('negative', lambda x: -x.float()), ('flipped', lambda x: x.flip(0) if x.dim() else x),
    ('not', lambda x: 1 - x if x.dtype == torch.uint8 else x), ('list', lambda x: x.tolist())]


def spoil_pickle(content: bytes, rng: Random) -> Tuple[str, bytes]:
    """Return how, and a checkpoint whose pickle has other bits and whose checksums are right."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(file, 'w') as spoiled:
        for record in archive.infolist():
            data = bytearray(archive.read(record))
            if record.filename.endswith('data.pkl'):
                for _ in range(rng.choice([1, 1, 2])):
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            spoiled.writestr(record.filename, bytes(data))
    return 'pickle', file.getvalue()


def spoil_old(content: bytes, rng: Random) -> Tuple[str, bytes]:
    """Return how, and a checkpoint in the format before torch 1.6, which has no checksums, with other bits."""
    file, storages = io.BytesIO(), {}

    class Pickler(pickle.Pickler):
        """As torch's own, which names storages by their addresses, so that no two files are alike."""

        def persistent_id(self, value: Any) -> Any:
            if not torch.is_storage(value):
                return None
            key = str(storages.setdefault(value.data_ptr(), (len(storages), value))[0])
            kind = getattr(torch, value.pickle_storage_type())
            return 'storage', kind, key, 'cpu', len(value), None

    little = sys.byteorder == 'little'
    for value in (0x1950a86a20f9469cfc6c, 1001, dict(protocol_version=1001, little_endian=little, type_sizes={})):
        pickle.dump(value, file, 2)
    Pickler(file, 2).dump(torch.load(io.BytesIO(content), map_location='cpu', weights_only=False))
    pickle.dump([str(number) for number, _ in storages.values()], file, 2)
    for _, storage in storages.values():
        numbers = torch.empty(0, dtype=storage.dtype).set_(storage).numpy()
        file.write(struct.pack('<q', len(numbers)) + numbers.tobytes())
    kind, spoiled = spoil_bytes(file.getvalue(), rng, [content])
    return f'before 1.6: {kind}', spoiled


def spoil_values(value: Dict[str, Any], rng: Random) -> Tuple[Tuple[Any, ...], Any]:
    """Change a value in a nested dict in place; return where, and the new value."""
    places = [place for place in _places(value, ()) if not {'type', 'architecture', 'input_shape'} & {*place}]
    place, odd = rng.choice(places), rng.choice(ODD)
    owner = value
    for key in place[:-1]:
        owner = owner[key]
    owner[place[-1]] = odd
    return place, odd


def _places(value: Any, path: Tuple[Any, ...]) -> List[Tuple[Any, ...]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in [(*path, key), *_places(value[key], (*path, key))]]


def spoil_onnx(content: bytes, rng: Random) -> Tuple[str, bytes]:
    """Return how, and an ONNX model with other weights, shapes or nodes."""
    import onnx  # an optional dependency

    model = onnx.load_model_from_string(content)
    graph = model.graph
    kind = rng.choice(['dims', 'type', 'numbers', 'swap', 'node', 'edge', 'attribute', 'input', 'version'])
    weight, node = rng.choice(graph.initializer), rng.choice(graph.node)
    if kind == 'dims' and weight.dims:
        weight.dims[rng.randrange(len(weight.dims))] = rng.choice([0, -1, 1, 10**9, 2**62])
    elif kind == 'type':
        weight.data_type = rng.randrange(24)
    elif kind == 'numbers':
        weight.raw_data = rng.choice([b'', weight.raw_data[:-4], weight.raw_data * 2, rng.randbytes(
            len(weight.raw_data))])
    elif kind == 'swap':
        other = rng.choice(graph.initializer)
        weight.name, other.name = other.name, weight.name
    elif kind == 'node':
        node.op_type = rng.choice(['Relu', 'Sigmoid', 'NoSuch', 'Add', 'Conv', ''])
    elif kind == 'edge' and node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice([*(one.name for one in graph.initializer), 'x', ''])
    elif kind == 'attribute' and node.attribute:
        for attribute in node.attribute:
            attribute.ints[:] = [rng.choice([0, -1, 1, 2, 10**9]) for _ in attribute.ints]
    elif kind == 'input':
        graph.input[0].name = rng.choice(['x', ''])
    else:
        model.opset_import[0].version = rng.choice([0, -1, 1, 10**6])
    return kind, model.SerializeToString()
