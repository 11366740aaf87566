"""Sizes that are written down in modules (``split(x, self.width)``), followed to the channels that they measure.

While a model is traced, the integers of its modules know which attribute they are, through ``//``, ``*`` and ``+`` too.
Where one arrives at a function as the size of an axis of channels, the attribute is tied to these channels, and
follows a cut.
"""
import sys
import weakref
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, Iterator, List, Optional, Tuple

import torch
from torch import Tensor, nn

from .label import canonical
from .tracer import Tracer

#: Layers of torch: a cut sets their sizes by the shapes of their tensors.
FOLLOWS_ITS_TENSORS = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm,
                       nn.PReLU, nn.MultiheadAttention, nn.Embedding)
NEW_TENSORS = ('zeros', 'ones', 'empty', 'full', 'new_zeros', 'new_ones', 'new_empty', 'new_full', 'rand', 'randn')
SPLITS = ('split_size_or_sections', 'split_size', 'split_sizes')
VIEWS = ('view', 'reshape', 'expand')


class WrittenSize(int):
    """An integer attribute of a module, or a multiple or a part of one.

    Attributes:
        module (nn.Module or None): The module; None once it is gone.
        attribute (str): Its attribute, such as ``width``, or ``widths[1]`` of a list or tuple.
        share (Fraction): This number over the attribute.
        compared (list): Where it notes the other attributes that it was compared with and differed from.
    """

    _owner: 'weakref.ref[nn.Module]'
    attribute: str
    share: Fraction
    compared: Optional[List[Tuple['WrittenSize', 'WrittenSize']]] = None

    @classmethod
    def of(cls, value: int, module: nn.Module, attribute: str, share: Fraction = Fraction(1),
           compared: Optional[List[Tuple['WrittenSize', 'WrittenSize']]] = None) -> 'WrittenSize':
        """Return a number that knows where it comes from."""
        size = cls(value)
        size._owner, size.attribute, size.share, size.compared = weakref.ref(module), attribute, share, compared
        return size

    @property
    def module(self) -> Optional[nn.Module]:
        """The module; a cache of the forward may outlive it."""
        return self._owner()

    @property
    def whole(self) -> int:
        """The value of the attribute."""
        return int(self / self.share)

    def _scaled(self, factor: Fraction) -> int:
        value, module = int(Fraction(int(self)) * factor), self.module
        return value if module is None else self.of(value, module, self.attribute, self.share * factor, self.compared)

    def __mul__(self, other: Any) -> Any:
        scales = type(other) is int and other > 0
        return self._scaled(Fraction(other)) if scales else int(self) * other

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> Any:
        scales = isinstance(other, int) and other > 0 and int(self) % other == 0
        return self._scaled(Fraction(1, int(other))) if scales else int(self) // other

    def __add__(self, other: Any) -> Any:
        module = self.module
        if isinstance(other, WrittenSize) and module is not None and other.module is module and (
                other.attribute == self.attribute):
            return self.of(int(self) + int(other), module, self.attribute, self.share + other.share, self.compared)
        return int(self) + other

    __radd__ = __add__

    def _note(self, other: Any) -> None:
        if isinstance(other, WrittenSize) and self.compared is not None:
            self.compared.append((self, other))

    def __eq__(self, other: Any) -> Any:
        same = int.__eq__(self, other)  # NotImplemented: the other side answers
        if same is False:
            self._note(other)
        return same

    def __ne__(self, other: Any) -> Any:
        differs = int.__ne__(self, other)
        if differs is True:
            self._note(other)
        return differs

    __hash__ = int.__hash__

    def __deepcopy__(self, memo: Any) -> int:
        return int(self)

    def __reduce__(self) -> Any:
        return int, (int(self),)


@contextmanager
def uncached_einops() -> Iterator[None]:
    """Let einops, where it is loaded, work out sizes anew: its cache mistakes ours for equal ones of another module."""
    einops: Any = sys.modules.get('einops.einops')
    cached = getattr(einops, '_reconstruct_from_shape', None)
    if cached is not None:
        einops._reconstruct_from_shape = getattr(einops, '_reconstruct_from_shape_uncached', cached)
    try:
        yield
    finally:
        if cached is not None:
            einops._reconstruct_from_shape = cached


def plant(model: nn.Module) -> List[Tuple[WrittenSize, WrittenSize]]:
    """Replace the integers of modules, those in their lists and tuples too; the caller puts the plain ones back.

    Returns:
        list[tuple[WrittenSize, WrittenSize]]: Fills with attributes that a forward compares and finds different.
    """
    compared: List[Tuple[WrittenSize, WrittenSize]] = []
    for module in model.modules():
        if isinstance(module, (torch.jit.ScriptModule, *FOLLOWS_ITS_TENSORS)):
            continue
        for name, value in list(vars(module).items()):
            if type(value) is int and value > 1:
                module.__dict__[name] = WrittenSize.of(value, module, name, compared=compared)
            elif type(value) in (list, tuple) and any(type(item) is int and item > 1 for item in value):
                items = [WrittenSize.of(item, module, f'{name}[{place}]', compared=compared)
                         if type(item) is int and item > 1 else item for place, item in enumerate(value)]
                module.__dict__[name] = type(value)(items)
    return compared


def keep_compared(tracer: Tracer, compared: List[Tuple[WrittenSize, WrittenSize]]) -> None:
    """Freeze sizes that a forward compares with others: cut to the same number, it would take the other branch."""
    for pair in compared:
        for size, other in (pair, pair[::-1]):
            module = size.module
            axis = None if module is None else tracer.axes.get((id(module), size.attribute))
            if axis is not None:
                reason = (f'its size is written down in attribute {axis.tensor!r}, which the forward compares with '
                          f'{other.attribute!r}')
                tracer.freeze(torch.from_numpy(axis.ids), reason, where=False)


def holds_written_size(value: Any) -> bool:
    """Tell whether an argument of a function is such a number, or holds one."""
    if isinstance(value, (tuple, list)):
        return any(holds_written_size(item) for item in value)
    if isinstance(value, slice):
        return isinstance(value.start, WrittenSize) or isinstance(value.stop, WrittenSize)
    return isinstance(value, WrittenSize)


def follow(tracer: Tracer, name: str, args: Tuple[Any, ...], kwargs: Any, out: Any) -> None:
    """Tie the attributes that a function was given as sizes to the channels that they measure.

    Args:
        tracer (Tracer): The trace; the operations of the function have been followed.
        name (str): Name of the function.
        args (tuple): Its positional arguments.
        kwargs (dict): Its keyword arguments.
        out (Any): What it returned.
    """
    if name in NEW_TENSORS:
        _new_tensor(tracer, out, _flat([*args, kwargs.get('size')]))
        return
    if not args or not isinstance(args[0], Tensor) or tracer.labels_of(args[0]) is None:
        return
    for labels, axis, size in _measured(tracer, name, args, kwargs, out):
        if isinstance(size, WrittenSize) and 0 <= axis < labels.dim() and labels.size(axis) == size:
            measure(tracer, labels, axis, size)


def _measured(tracer: Tracer, name: str, args: Tuple[Any, ...], kwargs: Any,
              out: Any) -> Iterator[Tuple[Tensor, int, Any]]:
    """Return labels of a tensor, one of its axes, and the argument that gives its size."""
    source = tracer.labels_of(args[0])
    assert source is not None
    if name in ('split', 'split_with_sizes'):
        axis = _argument(args, kwargs, 2, 'dim', 0) % source.dim()
        sizes = args[1] if len(args) > 1 else next((kwargs[key] for key in SPLITS if key in kwargs), None)
        for place, part in enumerate(out):
            labels = tracer.labels_of(part)
            if labels is not None:
                yield labels, axis, sizes[place] if isinstance(sizes, (list, tuple)) else sizes
    elif name == 'narrow':
        axis = _argument(args, kwargs, 1, 'dim', 0) % source.dim()
        start, length = _argument(args, kwargs, 2, 'start', 0), _argument(args, kwargs, 3, 'length', 0)
        yield source.narrow(axis, 0, int(start)), axis, start
        yield source.narrow(axis, 0, int(length)), axis, length
    elif name == '__getitem__':
        yield from _of_slices(source, args[1] if isinstance(args[1], tuple) else (args[1],))
    elif name in VIEWS:
        labels = tracer.labels_of(out)
        for axis, size in enumerate(_flat(args[1:]) or _flat(list(kwargs.values()))):
            if labels is not None and axis < labels.dim():
                yield labels, axis, size
    elif name == 'unflatten':
        labels, first = tracer.labels_of(out), _argument(args, kwargs, 1, 'dim', 0) % source.dim()
        for place, size in enumerate(_flat([_argument(args, kwargs, 2, 'sizes', ())])):
            if labels is not None:
                yield labels, first + place, size
    elif name.startswith('conv'):
        yield source, 1, _argument(args, kwargs, 6, 'groups', 1)


def _of_slices(source: Tensor, index: Tuple[Any, ...]) -> Iterator[Tuple[Tensor, int, Any]]:
    axis = 0
    for place, item in enumerate(index):
        if item is Ellipsis:
            axis = source.dim() - sum(other is not None for other in index[place + 1:])
        elif isinstance(item, slice):
            for bound in (item.start, item.stop):
                if isinstance(bound, WrittenSize) and bound < source.size(axis) and item.step is None:
                    yield source.narrow(axis, 0, int(bound)), axis, bound
            axis += 1
        elif item is not None:
            axis += 1


def _argument(args: Tuple[Any, ...], kwargs: Any, position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)


def _flat(values: Any) -> List[Any]:
    return [item for value in values for item in (_flat(value) if isinstance(value, (list, tuple)) else [value])]


def _new_tensor(tracer: Tracer, out: Any, sizes: List[Any]) -> None:
    """Give a new constant channels along the one axis whose size is written down."""
    sizes = [size for size in sizes if isinstance(size, int)][-out.dim():] if isinstance(out, Tensor) else []
    written = [(axis, size) for axis, size in enumerate(sizes) if isinstance(size, WrittenSize)]
    if len(written) == 1 and [int(size) for size in sizes] == list(out.shape):
        axis, size = written[0]
        ids = tracer.new_ids(out.size(axis))
        tracer.set_channels(out, ids, axis)
        measure(tracer, ids, 0, size)


def measure(tracer: Tracer, labels: Tensor, axis: int, size: WrittenSize) -> None:
    """State that an axis has as many indices as an attribute of a module says, also after a cut."""
    labels = canonical(labels)
    if labels.size(axis) == 1:  # not an axis of channels
        return
    module = size.module
    if module is None or all(other is not module for other in tracer.model.modules()):  # from a cache of another model
        return
    parts, of = size.share.numerator, size.share.denominator  # the axis is that many of so many parts of the attribute
    own = tracer.attribute(module, size.attribute, size.whole).view(of, -1)
    tracer.tie(own[1:], own[:1].expand_as(own[1:]))
    tracer.measure(labels, axis, own[0].repeat(parts),
                   f'its size is written down in attribute {size.attribute!r}')


def set_attribute(module: nn.Module, attribute: str, value: int) -> None:
    """Set an attribute, or an item of a list or tuple: ``width``, ``widths[1]``."""
    name, _, place = attribute.partition('[')
    if place:
        before = getattr(module, name)
        items = list(before)
        items[int(place[:-1])] = value
        value = type(before)(items)
    setattr(module, name, value)
