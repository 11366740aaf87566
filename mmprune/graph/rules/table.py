"""The tables of rules for operations, layer functions and classes of modules, and the call that a rule gets.

A rule runs after the operation, as ``rule(tracer, call)``: it reads the labels of the inputs, ties or freezes channel
ids, and labels the results. An operation without an entry freezes every channel that it touches.

Operations are aten's, by name without a trailing underscore (``add_`` is ``add``), since they come and go between torch
versions; a ``torch.autograd.Function`` counts as an operation, by class name, if it has an entry. Layers are seen as
public functions (``F.conv2d``...), whose weight is still the parameter itself, which names the layer. Nothing is traced
inside a module with a rule; its layers are pruned only if the rule says what they read and produce.
"""
import functools
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Optional, Sequence

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..tracer import Tracer


@dataclass(frozen=True)
class Call:
    """A call of an operation, a layer function or a module, after it ran."""

    name: str  #: name of the operation or function; empty for a module, which is ``tracer.module``
    args: Sequence[Any]  #: positional arguments
    kwargs: Dict[str, Any] = field(default_factory=dict)  #: keyword arguments
    out: Any = None  #: what it returned
    function: Optional[Callable[..., Any]] = None  #: the aten operation itself

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument, given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def axis(self, position: int, default: int = 0, name: str = 'dim') -> int:
        """Return an argument that is an axis of the first argument, counted from 0."""
        return int(self.arg(position, name, default)) % int(self.args[0].dim())

    @property
    def results(self) -> Sequence[Tensor]:
        """What it returned, as a sequence."""
        return self.out if isinstance(self.out, (tuple, list)) else [self.out]

    @property
    def result(self) -> Tensor:
        """The first result."""
        return self.results[0]

    def moved(self, labels: Tensor) -> Any:
        """Run the operation on the CPU, with labels as its first argument."""
        assert self.function is not None
        rest = [tree_map(_to_cpu, value) for value in self.args[1:]]
        return self.function(labels, *rest, **tree_map(_to_cpu, self.kwargs))


def _to_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


Rule = Callable[[Tracer, Call], None]
#: aten operation name -> rule
OP_RULES: Dict[str, Rule] = {}
#: public function name -> rule
LAYER_RULES: Dict[str, Rule] = {}
#: name of a layer function whose rule is for some calls only -> tells which; the operations of others are followed
CONDITIONS: Dict[str, Callable[[Tracer, Sequence[Any]], bool]] = {}
#: class name of a module -> rule
MODULE_RULES: Dict[str, Rule] = {}


def _register_in(table: Dict[str, Rule], names: Sequence[str], labelled: bool = False) -> Callable[[Any], Rule]:
    def add(rule: Any) -> Rule:
        entry: Rule = _if_labelled(rule) if labelled else rule
        table.update(dict.fromkeys(names, entry))
        return entry

    return add


def _if_labelled(rule: Callable[[Tracer, Call, Tensor], None]) -> Rule:
    @functools.wraps(rule)
    def wrapped(tracer: Tracer, call: Call) -> None:
        labels = tracer.labels_of(call.args[0])
        if labels is not None:
            rule(tracer, call, labels)

    return wrapped


def register_op(*names: str, labelled: bool = False) -> Callable[[Any], Rule]:
    """Register a rule for aten operations by name, for example ``@register_op('aten_name')``.

    A ``labelled`` rule also gets the labels of the first argument, ``rule(tracer, call, labels)``, and runs only if it
    has labels.
    """
    return _register_in(OP_RULES, names, labelled)


def register_layer(*names: str, labelled: bool = False) -> Callable[[Any], Rule]:
    """Register a rule for public functions by name, such as ``@register_layer('conv2d')``; see :func:`register_op`."""
    return _register_in(LAYER_RULES, names, labelled)


def register_layer_if(condition: Callable[[Tracer, Sequence[Any]], bool], *names: str) -> Callable[[Any], Rule]:
    """Register a rule for public functions by name, for the calls that a condition on their arguments holds for."""
    CONDITIONS.update(dict.fromkeys(names, condition))
    return _register_in(LAYER_RULES, names)


def applies(tracer: Tracer, name: str, args: Sequence[Any]) -> bool:
    """Tell whether the rule of a layer function is for a call with these arguments."""
    return name not in CONDITIONS or CONDITIONS[name](tracer, args)


def register_module(*names: str) -> Callable[[Any], Rule]:
    """Register a rule for modules by class name, as ``@register_module('DeformConv2d')``; subclasses inherit it."""
    return _register_in(MODULE_RULES, names)


def rule_of(module: nn.Module) -> Optional[Rule]:
    """Return the rule of a module's class or of the nearest base class that has a rule, or None."""
    return next((MODULE_RULES[kind.__name__] for kind in type(module).__mro__ if kind.__name__ in MODULE_RULES), None)


def follow_nothing(tracer: Tracer, call: Call, reason: Optional[str] = None) -> None:
    """Freeze every channel that a call reads, for a reason; by default that the call has no rule."""
    text = reason or f'{call.name} has no channel rule (add one with mmprune.register_op)'
    for labels in tracer.labels_in(call.args, call.kwargs):
        tracer.freeze(labels, text)
    tracer.give_up_on(call.out, text)
