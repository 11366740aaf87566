"""What a forward of a model calls, in which order, and which tensor goes where: the survey before a repair."""
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..graph.idle import CONV_OR_LINEAR
from ..graph.nested import output_tensors
from ..graph.watching import watched
from ..units.attention.parameter_linear import ParameterLinear
from .clipping import Clip, Clipping, clip_of
from .parameter_rows import RowsCall
from .summand import ADDITIONS, Sum, Summand, find_summand, version
from .windows import channels_first, columns, spatial

#: A layer whose outputs differ relatively by more from weight times input is something else than its class says.
SAME = 1e-3


@dataclass
class Call:
    """A call of a module, with its tensors, which are kept so that no later one has their identity."""

    name: str  #: name of the module
    start: int  #: when it began, in calls begun and ended so far
    end: int  #: when it ended
    x: Optional[Tensor]  #: what it was called with, where that is a tensor
    out: Optional[Tensor]  #: what it returned, where that is a tensor
    versions: Tuple[int, int]  #: how often the two had been changed in place: before the call, and after it
    rows: Optional[RowsCall] = None  #: which rows of a parameter it read, where that is what it does


class Survey(TorchFunctionMode):
    """One forward of a model.

    Args:
        model (nn.Module): The model, in eval mode.
        run (Callable): Runs it.

    Attributes:
        calls (list[Call]): In the order in which they end.
        outputs (list[Tensor]): What the model returns.
        unlike (set[str]): Conv and linear modules that compute something else than their class does.
    """

    def __init__(self, model: nn.Module, run: Callable[[nn.Module], Any]) -> None:
        super().__init__()
        self.calls: List[Call] = []
        self.unlike: set = set()
        self._uses: Dict[int, Tuple[Tensor, int]] = {}
        self._clock, self._paused = 0, False
        self._open: List[Tuple[int, int]] = []
        self._sums: List[Sum] = []
        self._clippings: List[Clipping] = []
        with watched(model.named_modules(), self._enter, self._leave), self:
            self.outputs = output_tensors(run(model))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count which tensors are used by what yields tensors."""
        added = func in ADDITIONS and not self._paused and not kwargs and all(isinstance(arg, Tensor) for arg in args)
        before = [(self._used(part), version(part)) for part in args] if added else []
        clip = clip_of(func, args, kwargs or {})
        used = self._used(args[0]) if clip and args else 0
        out = func(*args, **(kwargs or {}))
        if clip and args:
            self._clippings.append(Clipping(clip, args[0], out, used))
        if added and args[0].shape == args[1].shape:
            self._sums.append(Sum(args, out, *zip(*before)))
        if not self._paused and output_tensors(out):
            for tensor in output_tensors([args, kwargs]):
                _, count = self._uses.get(id(tensor), (tensor, 0))
                self._uses[id(tensor)] = tensor, count + 1  # kept, so that no later tensor has its identity
        return out

    def _used(self, tensor: Tensor) -> int:
        return self._uses.get(id(tensor), (tensor, 0))[1]

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        x = next(iter([*args, *kwargs.values()]), None)
        self._open.append((self._tick(), version(x) if isinstance(x, Tensor) else 0))

    def _leave(self, name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        given = [*args, *kwargs.values()]
        x = given[0] if given and isinstance(given[0], Tensor) and (len(given) == 1 or isinstance(
            module, CONV_OR_LINEAR)) else None
        out = out if isinstance(out, Tensor) else None
        start, read = self._open.pop()
        rows = RowsCall.of(args, kwargs) if isinstance(module, ParameterLinear) else None
        self.calls.append(Call(name, start, self._tick(), x, out, (read, 0 if out is None else version(out)), rows))
        if isinstance(module, CONV_OR_LINEAR) and x is not None and out is not None:
            self._paused = True
            if not _as_its_class(module, x, out):
                self.unlike.add(name)
            self._paused = False

    def by_name(self) -> Dict[str, List[Call]]:
        """Return module name -> its calls; the modules are in the order of their first one."""
        found: Dict[str, List[Call]] = {}
        for call in sorted(self.calls, key=lambda call: call.start):
            found.setdefault(call.name, []).append(call)
        return found

    def summand(self, layer: str, norms: Tuple[str, ...]) -> Optional[Summand]:
        """Return what the output of a layer is added to, through the batch norm that it alone feeds, if any."""
        calls = self.by_name()
        last = calls[norms[0] if norms else layer]
        tail = last[0].out
        if len(norms) > 1 or len(calls[layer]) + len(last) > 2 or tail is None:
            return None
        uses = self._uses_of(tail)
        counts = {name: len(several) for name, several in calls.items()}
        return find_summand(tail, calls[layer][0].start, self._sums, uses, self.calls, counts)

    def _uses_of(self, tensor: Tensor) -> int:
        return self._used(tensor) + any(tensor is out for out in self.outputs)

    def clip(self, layer: str, norms: Tuple[str, ...], is_added: bool) -> Optional[Clip]:
        """Return the clamp that alone reads the output of a layer, if any, behind a batch norm and an addition.

        Args:
            layer (str): The layer.
            norms (tuple[str]): Batch norms that it alone feeds.
            is_added (bool): Its output is added to something; see :meth:`summand`.
        """
        calls = self.by_name()
        tails = [call.out for call in calls[norms[0] if norms else layer]]
        if len(norms) > 1:
            return None
        expected = 0
        if is_added:
            one = next(one for one in self._sums if any(part is tails[0] for part in one.parts))
            expected = int(any(part is one.out for part in one.parts))  # in place
            tails = [one.out]
        found = {self._read_by(tail, expected) for tail in tails}
        return found.pop() if len(found) == 1 else None

    def _read_by(self, tail: Optional[Tensor], expected: int) -> Optional[Clip]:
        """Return the clamp that alone reads a tensor, which has been used a number of times before."""
        for one in self._clippings:
            if one.x is tail and tail is not None and one.used == expected and (
                    one.out is tail or self._uses_of(tail) == expected + 1):
                return one.clip
        return None

    def feeds_only(self, layer: str, modules: Dict[str, nn.Module]) -> Tuple[str, ...]:
        """Return the batch norms that a layer feeds, where it feeds nothing else, and nothing else feeds them."""
        calls = self.by_name()
        outs = {id(call.out) for call in calls[layer]}
        norms = [name for name, several in calls.items()
                 if isinstance(modules[name], nn.modules.batchnorm._BatchNorm)
                 and any(id(call.x) in outs for call in several)]
        read = [id(call.x) for name in norms for call in calls[name]]
        alone = sorted(read) == sorted(outs) and all(self._uses[one][1] == 1 for one in outs if one in self._uses)
        alone = alone and not outs & {id(tensor) for tensor in self.outputs}
        alone = alone and all(modules[name].running_mean is not None for name in norms)
        return tuple(norms) if alone else ()


def _as_its_class(module: Any, x: Tensor, out: Tensor) -> bool:
    """Tell whether a layer's output is its weight times what it reads, plus its bias, at some positions."""
    if getattr(module, 'transposed', False) or 'weight' not in module._parameters:
        return False
    x, wanted = channels_first(module, x), spatial(channels_first(module, out))
    if not wanted.numel():
        return True
    places = torch.arange(wanted.size(2), device=x.device)[::max(1, wanted.size(2) // 8)]
    read = columns(module, x, places)
    weight = module.weight.reshape(len(read), -1, read.size(1))
    found = (weight @ read).flatten(0, 1)
    if module.bias is not None:
        found = found + module.bias[:, None]
    wanted = wanted[:, :, places].transpose(0, 1).flatten(1)
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= SAME * wanted.abs().max() + 1e-30)
