"""Modules that follow one another, each called once with the output of the one before: where a model can be cut apart.

Between two of them a single tensor is all that goes on. Where an output is used elsewhere too, as a pyramid uses those
of a backbone, it is kept to the end.
"""
from contextlib import contextmanager
from typing import Any, Callable, Dict, FrozenSet, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..graph.capture import ERRORS
from ..graph.nested import output_tensors
from ..graph.watching import Enough, watched
from .survey import Call, Survey


class Chain(NamedTuple):
    """Modules that follow one another."""

    links: Tuple[str, ...]  #: names of the modules
    shapes: Tuple[Dict[str, Tuple[int, ...]], ...]  #: for each model, module -> shape of its output, without the batch
    kept: FrozenSet[str]  #: modules whose output is used elsewhere too; the last is one


def find_chain(cut: Survey, models: Sequence[nn.Module], run: Callable[[nn.Module], Any]) -> Optional[Chain]:
    """Return the longest chain of two modules or more on which models can be cut apart, None where there is none.

    Args:
        cut (Survey): Of the first model.
        models (sequence[nn.Module]): The models; each must yield the same when run link by link.
        run (Callable): Runs a model on the input of the survey.
    """
    calls = _longest(cut)
    if len(calls) < 2:
        return None
    links = tuple(call.name for call in calls)
    chain: Optional[Chain] = Chain(links, (), frozenset(links[-1:]))
    for model in models:
        chain = chain and _tried(chain, model, run)
    return chain


def _longest(survey: Survey) -> List[Call]:
    several = survey.by_name()
    calls = [calls[0] for calls in several.values() if len(calls) == 1 and calls[0].x is not None
             and calls[0].out is not None and calls[0].x.dim() and calls[0].out.dim()
             and calls[0].x.size(0) == calls[0].out.size(0) and calls[0].name]
    before: Dict[int, Optional[int]] = {}
    length: Dict[int, int] = {}
    began: Dict[int, int] = {}
    for place, call in enumerate(calls):
        earlier = [other for other in range(place) if calls[other].out is call.x and calls[other].end < call.start
                   and calls[other].versions[1] == call.versions[0]]  # not changed in place since
        best = max(earlier, key=lambda other: length[other], default=None)
        before[place], length[place] = best, 1 + (0 if best is None else length[best])
        began[place] = call.start if best is None else began[best]
    # of chains of the same length the one in which most is called
    last: Optional[int] = max(length, key=lambda one: (length[one], calls[one].end - began[one]), default=None)
    found: List[Call] = []
    while last is not None:
        found.insert(0, calls[last])
        last = before[last]
    return found


def _tried(chain: Chain, model: nn.Module, run: Callable[[nn.Module], Any]) -> Optional[Chain]:
    """Return the chain, with the outputs that must be kept for this model, None where it is no chain here."""
    modules = dict(model.named_modules())
    if any(name not in modules for name in chain.links):
        return None
    survey = Survey(model, run)
    whole = [tensor.clone() for tensor in survey.outputs]
    found: Dict[str, Tensor] = {}
    x = first_input(model, chain, run).clone()
    for name in chain.links:
        x = modules[name](x)
        found[name] = x.clone()

    shapes = {name: tuple(out.shape[1:]) for name, out in found.items()}

    def same(kept: FrozenSet[str]) -> bool:
        try:
            with replaced(modules, shapes, {name: found[name].clone() for name in kept}):
                return equal(whole, output_tensors(run(model)))
        except ERRORS:  # what comes of NaN, in whatever the model calls
            return False

    kept = chain.kept
    if not same(kept):
        rest = frozenset(chain.links)
        if not same(rest):
            return None
        kept = kept | {name for name in chain.links if not same(rest - {name})}
    return Chain(chain.links, (*chain.shapes, shapes), kept) if same(kept) else None


def equal(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    """Tell whether tensors are alike but for rounding; NaN is like nothing."""
    return len(left) == len(right) and all(
        a.shape == b.shape and bool(((a - b).abs() <= 1e-4 * a.abs().amax()).all()) for a, b in zip(left, right)
        if a.numel())


def first_input(model: nn.Module, chain: Chain, run: Callable[[nn.Module], Any]) -> Tensor:
    """Return what the first module of a chain is called with."""
    found: List[Tensor] = []

    def take(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        found.append((args or tuple(kwargs.values()))[0])
        raise Enough

    first = chain.links[0]
    with watched([(first, model.get_submodule(first))], before=take):
        try:
            run(model)
        except Enough:
            if not found:  # a hook of somebody else
                raise
    return found[0]


@contextmanager
def replaced(modules: Mapping[str, nn.Module], shapes: Mapping[str, Tuple[int, ...]],
             outputs: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the modules of a chain return given outputs for the time of the block, and NaN where none is given.

    Args:
        modules (dict[str, nn.Module]): All modules of a model.
        shapes (dict[str, tuple[int]]): The modules of the chain, each with the shape of its output without the batch.
        outputs (dict[str, Tensor]): What some of them return.
    """
    def forward(name: str) -> Callable[..., Tensor]:
        if name in outputs:
            return lambda *args, **kwargs: outputs[name]
        return lambda x, *args, **kwargs: torch.full((1,), float('nan'), dtype=x.dtype, device=x.device).expand(
            x.size(0), *shapes[name])

    own = {name: vars(modules[name]).get('forward') for name in shapes}
    for name in shapes:
        modules[name].forward = forward(name)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for name, former in own.items():
            del modules[name].forward
            if former is not None:
                modules[name].forward = former  # type: ignore[method-assign]
