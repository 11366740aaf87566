"""A network that is run stage by stage on all batches, and what it has stored of them on the way."""
from contextlib import contextmanager, suppress
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..graph.demo_input import ExampleInputs
from ..graph.nested import output_tensors
from ..graph.watching import Enough, watched
from ..units.attention.taking_over import PrunableAttention, forward_for, give_back, take_over
from .chain import Chain, first_input, replaced
from .layer import Layer
from .output_error import OutputErrors

#: Largest value that is stored in half precision.
LARGEST_HALF = 6e4
#: Bytes of the dense outputs that are kept to judge by; those of a detector are many, and are computed again.
WANTED = 5e8


class Stage(NamedTuple):
    """A part of a forward, with the layers that run in it."""

    kind: str  #: ``head`` (up to the chain), ``links`` (modules of it), ``rest`` (what follows, or all)
    links: Tuple[str, ...]  #: the modules
    layers: List[Layer]  #: in the order of execution


class Twin:
    """One of the two networks.

    Args:
        model (nn.Module): The network, in eval mode.
        batches (list): What it is called with.
        chain (Chain, optional): Where it is cut apart.
        number (int): Its place among the models of the chain.
        half (bool): What is stored is stored in half precision.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Any], chain: Optional[Chain], number: int,
                 half: bool) -> None:
        self.model, self.batches, self.chain, self.half = model, batches, chain, half
        self.modules = dict(model.named_modules())
        self.shapes = {} if chain is None else chain.shapes[number]
        self.stored: List[Any] = [None] * len(batches)
        self._kept: List[Dict[str, Tensor]] = [{} for _ in batches]
        self._like = next(parameter for parameter in model.parameters() if parameter.is_floating_point())

    def run(self, batch: int, stage: Stage, store: bool = False) -> None:
        """Run a stage on a batch, as far as the hooks on its layers want it.

        Args:
            batch (int): Number of the batch.
            stage (Stage): The next stage.
            store (bool): Go on with the next stage from here.
        """
        with suppress(Enough):
            self._run(batch, stage, store)

    def _run(self, batch: int, stage: Stage, store: bool) -> None:
        whole = ExampleInputs(self.batches[batch])
        if stage.kind == 'links':
            x = self._loaded(self.stored[batch])
            for name in stage.links:
                x = self.modules[name](x)
                if store and self.chain is not None and name in self.chain.kept:
                    self._kept[batch][name] = self._packed(x, copy=True)
            if store:
                self.stored[batch] = self._packed(x)
        elif stage.kind == 'head':
            assert self.chain is not None
            x = first_input(self.model, self.chain, whole)
            if store:
                self.stored[batch] = self._packed(x, copy=True)
        elif self.chain is None:
            whole(self.model)
        else:
            with replaced(self.modules, self.shapes,
                          {name: self._loaded(x) for name, x in self._kept[batch].items()}):
                whole(self.model)

    def _packed(self, x: Tensor, copy: bool = False) -> Tensor:
        small = self.half and x.dtype == torch.float32 and bool(
            torch.maximum(x.amax(), -x.amin()) < LARGEST_HALF)  # no copy as of x.abs(), and NaN stays NaN
        return x.to(torch.float16 if small else x.dtype, copy=copy)

    def _loaded(self, x: Tensor) -> Tensor:
        return x.to(self._like.dtype if x.dtype == torch.float16 else x.dtype, copy=True)

    @contextmanager
    def watching(self, layers: Sequence[Layer], before: Optional[Callable] = None, after: Optional[Callable] = None,
                 stop: bool = True) -> Iterator['Calls']:
        """Call ``before(layer, call, x)`` or ``after(layer, call, out)`` in the block; end a forward after the last.

        Args:
            layers (list[Layer]): The layers.
            before (Callable, optional): Called with the layer, the number of its call and what it reads.
            after (Callable, optional): Called with the layer, the number of its call and what it returns.
            stop (bool): End a forward as soon as no call of these layers is to come.
        """
        calls = Calls({layer.name: layer for layer in layers}, stop)
        summands = [(layer.name, self.modules[layer.summand.module], layer.summand.is_read) for layer in layers
                    if layer.summand is not None]

        def enter(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
            layer = calls.turn(name)
            if before is not None and layer is not None:
                before(layer, calls.counts[layer.name], (args or tuple(kwargs.values()))[0])
                calls.next(layer.name)

        def leave(name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            layer = calls.turn(name)
            if after is not None and layer is not None:
                after(layer, calls.counts[layer.name], out)
                calls.next(layer.name)

        def note(name: str, module: nn.Module, args: Any, kwargs: Any, out: Any = None) -> None:
            calls.summands[name] = (args or tuple(kwargs.values()))[0] if out is None else out

        modules = [(name, self.modules[name]) for name in {layer.watched: None for layer in layers}]
        with watched([(name, module) for name, module, is_read in summands if is_read], before=note), \
                watched([(name, module) for name, module, is_read in summands if not is_read], after=note), \
                watched(modules, None if before is None else enter, None if after is None else leave):
            yield calls


class Calls:
    """How often each of some layers has been called in the present forward."""

    def __init__(self, layers: Dict[str, Layer], stop: bool) -> None:
        self.layers, self.stop = layers, stop
        self.start()

    def start(self) -> None:
        """Begin a forward."""
        self.counts = dict.fromkeys(self.layers, 0)
        self.summands: Dict[str, Tensor] = {}
        self._turns: Dict[str, int] = {}

    def turn(self, module: str) -> Optional[Layer]:
        """Count a call of a module; return the layer whose it is."""
        place = self._turns[module] = self._turns.get(module, -1) + 1
        return next((layer for layer in self.layers.values() if layer.watched == module and (
            not layer.turns or place in layer.turns)), None)

    def next(self, name: str) -> None:
        """Count a call of a layer; the forward ends with the last."""
        self.counts[name] += 1
        if self.stop and all(self.counts[name] >= layer.calls for name, layer in self.layers.items()):
            raise Enough


class Judge:
    """Tells how far a model's outputs are from those of the dense one on some batches.

    Args:
        dense (nn.Module): The dense model, in eval mode.
        batches (list): What the models are called with.
    """

    def __init__(self, dense: nn.Module, batches: Sequence[Any]) -> None:
        self.dense, self.batches = dense, batches
        self._wanted: List[Optional[List[Tensor]]] = []  # None where it is computed again
        room = WANTED
        for batch in batches:
            wanted = output_tensors(ExampleInputs(batch)(dense)) if room > 0 else []
            room -= sum(tensor.numel() * tensor.element_size() for tensor in wanted)
            self._wanted.append([tensor.clone() for tensor in wanted] if room > 0 else None)

    def error(self, model: nn.Module) -> float:
        """Return how far the outputs are from the dense ones; see :class:`~.output_error.OutputErrors`."""
        found = OutputErrors()
        for batch, kept in zip(self.batches, self._wanted):
            wanted = output_tensors(ExampleInputs(batch)(self.dense)) if kept is None else kept
            found.add(output_tensors(ExampleInputs(batch)(model)), wanted)
        return found.relative()


@contextmanager
def attentions_run_alike(cut: nn.Module, dense: nn.Module) -> Iterator[None]:
    """Let a dense twin run its attentions as the cut model does: with the same modules, which can be watched."""
    twins = dict(cut.named_modules())
    plain = [module for name, module in dense.named_modules()
             if isinstance(twins.get(name), PrunableAttention) and forward_for(module, norms=False) is not None]
    try:
        take_over(plain)
        yield
    finally:
        give_back([module for module in plain if isinstance(module, PrunableAttention)])
