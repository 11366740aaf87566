"""The tables of rules, one entry an operation, a layer function or a class of modules; and the call that a rule gets.

A rule is called after the operation ran, as ``rule(tracer, call)``. It reads the labels of the call's inputs, ties or
freezes channel ids, and labels the call's results. An operation without an entry freezes every channel that it touches.

Operations are aten's, keyed by their name without a trailing underscore (``add_`` is ``add``), never by attribute
look-up, because operations come and go between torch versions; a ``torch.autograd.Function`` counts as one operation,
by its class name, if it has an entry. Layers with channel-indexed weights are seen as public functions
(``F.conv2d``...), so that the parameters are still themselves: parameter identity names the layer, whoever called the
function. Modules whose inside cannot be followed have a rule of their own: nothing inside them is traced, and their
conv and linear layers are not pruned unless the rule says what they read and produce.
"""
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..tracer import Tracer


@dataclass(frozen=True)
class Call:
    """One call of an operation, a layer function or a module, after it ran.

    Attributes:
        name (str): Of the operation or function; empty for a module, which is ``tracer.module``.
        args (sequence): Positional arguments.
        kwargs (dict): Keyword arguments.
        out (Any): What it returned.
        function (Callable, optional): The aten operation itself.
    """

    name: str
    args: Sequence[Any]
    kwargs: Dict[str, Any] = field(default_factory=dict)
    out: Any = None
    function: Optional[Callable[..., Any]] = None

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """Return an argument, given by position or by name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    def axis(self, position: int, default: int = 0, name: str = 'dim') -> int:
        """Return an argument that names an axis of the first one, counted from 0."""
        return int(self.arg(position, name, default)) % int(self.args[0].dim())

    @property
    def result(self) -> Tensor:
        """The first result."""
        first: Tensor = self.out[0] if isinstance(self.out, (tuple, list)) else self.out
        return first

    def moved(self, labels: Tensor) -> Any:
        """Run the operation on labels in place of its first argument; labels live on the CPU."""
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
#: class name of a module -> rule
MODULE_RULES: Dict[str, Rule] = {}


def _register_in(table: Dict[str, Rule], names: Sequence[str]) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        table.update(dict.fromkeys(names, rule))
        return rule

    return add


def register_op(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for aten operations by name, for example ``@register_op('aten_name')``."""
    return _register_in(OP_RULES, names)


def register_layer(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for public functions by name, for example ``@register_layer('conv2d')``."""
    return _register_in(LAYER_RULES, names)


def register_module(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for modules by class name, for example ``@register_module('DeformConv2d')``.

    Subclasses inherit it.
    """
    return _register_in(MODULE_RULES, names)


def rule_of(module: nn.Module) -> Optional[Rule]:
    """Return the rule of a module's class or of the nearest base class that has one, or None."""
    found: List[Rule] = [MODULE_RULES[kind.__name__] for kind in type(module).__mro__ if kind.__name__ in MODULE_RULES]
    return found[0] if found else None


def follow_nothing(tracer: Tracer, call: Call, reason: Optional[str] = None) -> None:
    """Freeze what a call touches, and say so: it has no rule, or one that follows nothing."""
    text = reason or f'{call.name} has no channel rule (add one with mmprune.register_op)'
    for labels in tracer.labels_in(call.args, call.kwargs):
        tracer.freeze(labels, text)
    tracer.give_up_on(call.out, text)
