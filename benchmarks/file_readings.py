"""What is in a mutated file, read without mmprune and torch: for `mutated_files.py`, to compare with what was loaded.

The network of that script, its units and which channels every tensor then has are written down here by hand.
"""
import io
import json
import math
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

#: Unit -> its channels, and how many of them are tied into one set.
STEM, INNER, GROUPED = 'stem_(0, 8)_8', 'block.conv1_(0, 6)_6', 'group_(0, 4)_4'
UNITS = {STEM: (8, 2), INNER: (6, 1), GROUPED: (4, 2)}
NORM = ('weight', 'bias', 'running_mean', 'running_var')
#: The first letters of the types that torch writes for storages.
STORAGES = {'FloatStorage': '<f4', 'DoubleStorage': '<f8', 'HalfStorage': '<f2', 'LongStorage': '<i8',
            'IntStorage': '<i4', 'ByteStorage': 'u1', 'BoolStorage': '?', 'ComplexFloatStorage': '<c8'}
Kept = Dict[str, List[int]]


class Unreadable(Exception):
    """The file does not say what a model shall be."""


class Channels(NamedTuple):
    """The channels of the dense network that stay."""

    stem: List[int]
    inner: List[int]
    grouped: List[int]


def channels_of(kept: Dict[str, Any]) -> Channels:
    """Return which channels a structure keeps: how many of each unit, from the first set on, or which."""
    found = []
    for name, (width, tied) in UNITS.items():
        value, sets = kept.get(name, width), width // tied  # a unit that it does not name stays whole
        if type(value) is int:
            if value % tied or not (name != INNER) <= value <= width:
                raise Unreadable(f'{name}: {value}')
            value = [first + sets * one for one in range(tied) for first in range(value // tied)]
        if type(value) is not list or any(type(one) is not int or not 0 <= one < width for one in value):
            raise Unreadable(f'{name}: {value}')
        members = set(value)
        whole = all(one % sets + sets * other in members for one in value for other in range(tied))
        if len(members) < len(value) or not whole or (not value and name != INNER):
            raise Unreadable(f'{name}: {value}')
        found.append(sorted(value))
    return Channels(*found)


def read_structure(path: Path) -> Channels:
    """Return which channels a json file keeps."""
    try:
        pairs = json.loads(path.read_bytes().decode('utf-8'), object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise Unreadable(str(error)) from None
    if not isinstance(pairs, tuple):
        raise Unreadable('no object')
    names = [name for name, _ in pairs]
    if names and len({*names}) == len(names) and {*names} <= {*UNITS}:
        return channels_of(dict(pairs))
    prefixes = {name[:-len(unit)] for name in names for unit in UNITS if name.endswith(unit)}
    for prefix in prefixes:  # the structure of a model that has this one in it
        if prefix.endswith('.') and len({*names}) == len(names) and {*names} <= {prefix + unit for unit in UNITS}:
            return channels_of({name[len(prefix):]: value for name, value in pairs})
    raise Unreadable(f'names {names}')


def cut(dense: Dict[str, np.ndarray], kept: Channels) -> Dict[str, np.ndarray]:
    """Return what stays of the dense network's tensors."""
    stem, inner, grouped = kept
    found = {f'norm0.{name}': dense[f'norm0.{name}'][stem] for name in NORM}
    found['stem.weight'] = dense['stem.weight'][stem]
    if inner:  # else the block is gone
        found.update({f'block.norm1.{name}': dense[f'block.norm1.{name}'][inner] for name in NORM})
        found.update({f'block.norm2.{name}': dense[f'block.norm2.{name}'][stem] for name in NORM})
        found['block.conv1.weight'] = dense['block.conv1.weight'][inner][:, stem]
        found['block.conv2.weight'] = dense['block.conv2.weight'][stem][:, inner]
    found['group.weight'] = dense['group.weight'][grouped][:, [one for one in stem if one < 4]]
    found['group.bias'] = dense['group.bias'][grouped]
    found['fc.weight'], found['fc.bias'] = dense['fc.weight'][:, grouped], dense['fc.bias']
    return found


def read_state(path: Path) -> Dict[str, Any]:
    """Return the state dict in a file of torch.save: arrays, and what is no tensor as it is."""
    try:
        content = _read_zip(path) if path.read_bytes()[:4] == b'PK\x03\x04' else _read_old(path.read_bytes())
    except Exception as error:  # whatever the bytes lead to
        raise Unreadable(f'{type(error).__name__}: {error}') from None
    state = content.get('state_dict', content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
        raise Unreadable('no state dict')
    names = [key[7:] if key.startswith('module.') else key for key in state]
    if len({*names}) < len(names):
        raise Unreadable('a key twice')
    return dict(zip(names, state.values()))


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
        if bad:
            raise zipfile.BadZipFile(bad)
        folder = next(name for name in archive.namelist() if name.endswith('/data.pkl'))[:-len('data.pkl')]

        def record(key: str, kind: Any, numel: int) -> bytes:
            data = archive.read(f'{folder}data/{key}')
            if len(data) != numel * _dtype(kind).itemsize:
                raise ValueError(f'{len(data)} bytes for {numel} of {kind}')
            return data

        return _unpickled(io.BytesIO(archive.read(f'{folder}data.pkl')), record)


def _read_old(content: bytes) -> Any:
    """Read the format before torch 1.6: five pickles, then the storages, each behind its length, which counts."""
    file = io.BytesIO(content)
    for _ in range(3):
        _unpickled(file, None)
    kinds: Dict[str, Any] = {}

    def note(key: str, kind: Any, numel: int) -> bytes:
        kinds.setdefault(key, kind)
        return b''

    _unpickled(file, note)
    keys, data = _unpickled(file, None), {}
    for key in keys:
        count, = struct.unpack('<q', file.read(8))
        data[key] = file.read(count * _dtype(kinds[key]).itemsize % 2**64)  # as torch multiplies
    file.seek(0)
    for _ in range(3):
        _unpickled(file, None)
    return _unpickled(file, lambda key, kind, numel: data[key])


def _unpickled(file: io.BytesIO, record: Any) -> Any:
    """Read the next pickle of a file; torch does not look at the number of its protocol."""
    start, content = file.tell(), file.read()
    pickled = io.BytesIO(b'\x80\x02' + content[2:] if content[:1] == b'\x80' else content)
    value = _Reader(pickled, record).load()
    file.seek(start + pickled.tell())
    return value


class _Anything(dict):
    """Stands for objects that are not looked at."""

    def __init__(self, *args: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Forget it."""


class _Reader(pickle.Unpickler):
    """Runs nothing of the file; tensors become arrays."""

    def __init__(self, file: Any, record: Any) -> None:
        super().__init__(file)
        self.record = record

    def find_class(self, module: str, name: str) -> Any:
        """Know dicts, storages and tensors."""
        if (module, name) == ('collections', 'OrderedDict'):
            return _Named
        if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
            return _tensor
        return name if name in STORAGES else _Anything  # torch does not look at the module of a storage

    def persistent_load(self, pid: Any) -> np.ndarray:
        """Return the numbers of a storage."""
        _, kind, key, _, numel = pid[:5]
        data = self.record(key, kind, numel)
        return np.frombuffer(data, _dtype(kind))


def _dtype(kind: Any) -> np.dtype:
    """Return the type of the numbers of a storage; torch takes anything that has one."""
    return kind.dtype if isinstance(kind, np.ndarray) else np.dtype(STORAGES[kind])


class _Named(dict):
    """A dict that may have attributes."""


class _Array(np.ndarray):
    """A tensor; like torch's it may be a key."""

    __hash__ = object.__hash__  # type: ignore[assignment]

    def __eq__(self, other: Any) -> Any:
        return self is other


def _tensor(data: np.ndarray, offset: int, size: Tuple[int, ...], stride: Tuple[int, ...], *rest: Any) -> np.ndarray:
    last = offset + sum((one - 1) * step for one, step in zip(size, stride)) if math.prod(size) else -1
    if not len(data):
        return data.view(_Array)
    if min([offset, *size, *stride, 0]) < 0 or last >= len(data) or len(size) != len(stride):
        raise ValueError('outside of its storage')
    steps = [step * data.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(data[offset:], size, steps).view(_Array)


def pruned_model(state: Dict[str, Any]) -> Tuple[Channels, Dict[str, np.ndarray]]:
    """Return which channels a prune run's checkpoint keeps, and the tensors of its model."""
    kept: Kept = {}
    for name, (width, _) in UNITS.items():
        vector = state.get(f'mutator.kept.{name}')
        if vector is None and any(f'mutator.kept.{other}' in state for other in UNITS):
            continue  # it stays whole
        if not isinstance(vector, np.ndarray) or vector.dtype not in (np.uint8, np.bool_) or vector.shape != (
                width, ) or not {*vector.tolist()} <= {0, 1}:
            raise Unreadable(f'kept of {name}')
        kept[name] = [number for number, one in enumerate(vector) if one]
    if any(key.startswith('mutator.units.') for key in state):
        raise Unreadable("mmrazor's")
    if any(key.startswith('mutator.kept.') and key[len('mutator.kept.'):] not in UNITS for key in state):
        raise Unreadable('an unknown unit')
    sets = sum(width // tied for name, (width, tied) in UNITS.items() if name in kept)
    for name, kinds, shape in (('mutator.fisher', 'f', (sets, )), ('iterations', 'iub', ())):
        value = state.get(name)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds or value.shape != shape:
            raise Unreadable(name)
    prefix = 'architecture.'
    return channels_of(kept), {key[len(prefix):]: value for key, value in state.items() if key.startswith(prefix)}


def weights_of(state: Dict[str, Any], shapes: Dict[str, Tuple[int, ...]]) -> Dict[str, np.ndarray]:
    """Return the tensors that a model of these shapes gets from a state dict."""
    found: Dict[str, Optional[np.ndarray]] = {key: state.get(key) for key in shapes}
    for name in {key.rpartition('.')[0] for key in shapes if key.endswith('running_mean')}:
        count = state.get(f'{name}.num_batches_tracked', np.zeros((), np.int64))
        if not isinstance(count, np.ndarray) or count.shape or count.dtype.kind not in 'iub':
            raise Unreadable(f'count of {name}')
    for key, value in found.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind != 'f' or value.shape != shapes[key]:
            raise Unreadable(f'{key}: {type(value).__name__}')
    return {key: np.array(value, dtype=np.float32) for key, value in found.items()}


# configs


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_shape(value: Any) -> bool:
    """Tell whether the network can take a shape, of at most a few images."""
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(map(_whole, value)) and value[1] == 3 and \
        math.prod(value) < 10**6


def is_sound(cfg: Dict[str, Any], name: str) -> bool:
    """Tell whether the value that was changed in a config of `mutated_models.py` is one that can be built."""
    value = cfg.get(name)
    if name in UNITS or name == 'fix_subnet':
        counts = cfg['fix_subnet']
        try:
            named = isinstance(counts, dict) and bool(counts) and {*counts} <= {*UNITS}
            found = channels_of(counts) if named else None
            wanted = channels_of({STEM: 6, INNER: 4, GROUPED: 2})
            return found in (wanted, wanted._replace(inner=[]))
        except Unreadable:
            return False
    if name in ('interval', 'divisor'):
        return _whole(value) and (name != 'divisor' or value <= 1024)
    if name == 'resource_type':
        return value in ('flops', 'params', 'acts')
    if name == 'save_ckpt_thr':
        return isinstance(value, list) and bool(value) and all(
            isinstance(one, float) and 0 < one < 1 for one in value)
    inside = cfg.get('mutator') or cfg
    if name in ('mutator', 'demo_input', 'channel_unit_cfg'):
        given = value if name in cfg else inside[name]
        return given in (None, {}) or (name == 'demo_input' and given in ([], ()))  # the default
    if name == 'input_shape':
        return _is_shape(inside['demo_input'][name])
    if name == 'normalization_type':
        return inside['channel_unit_cfg'][name] in ('act', 'flops', 'none')
    return cfg[name] is True if name in cfg else isinstance(inside['channel_unit_cfg'][name], bool)


def units_of(cfg: Dict[str, Any]) -> List[str]:
    """Return the units of the network by a prune config: a linear layer reads the last one."""
    unit = (cfg['mutator'] or {}).get('channel_unit_cfg') or {}
    return [*UNITS][:3 if unit.get('mutate_linear') else 2]


def padded(counts: Dict[str, Any], divisor: int) -> Dict[str, int]:
    """Return the counts of a structure after padding to a divisor."""
    found = {}
    for name, count in counts.items():
        tied, count = UNITS[name][1], len(count) if isinstance(count, list) else count
        found[name] = next(more for more in range(count, count + tied * divisor, tied) if more % divisor == 0)
    return found
