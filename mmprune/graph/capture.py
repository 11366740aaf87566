"""Trace a model: run its real forward once and record which channels belong together.

Each activation carries a parallel label tensor (:mod:`mmprune.graph.label`). Layers are seen as public functions,
modules with a rule of their own as a whole, everything else as aten operations (:mod:`mmprune.graph.rules`).
"""
import logging
import warnings
from contextlib import nullcontext
from typing import Any, Callable, Dict, List, Sequence

import torch
from mmengine.logging import print_log
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ..random_state import seeded
from .attributes import unchanged_attributes
from .idle import NEVER_RUN, whole_modules
from .module_rules import ModuleRules
from .nested import output_tensors
from .rules import attention, movement, openmmlab, order, product, spectrum, weight  # noqa: F401  (fill the tables)
from .rules.table import LAYER_RULES, OP_RULES, Call, applies, follow_nothing
from .trace import Trace
from .tracer import Tracer
from .written_size import follow, holds_written_size, keep_compared, plant, uncached_einops

OUTPUT = 'it is an output of the model'
#: Errors of a forward that are caught.
ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, NameError, RuntimeError, TypeError, ValueError)
#: Operations by which Python looks at a value.
LOOKS = ('_local_scalar_dense', 'is_nonzero', 'item', 'equal')
#: Operations that change the order of axes -> the order, of the axes before.
ORDERS: Dict[str, Callable[[Call], Sequence[int]]] = {
    't': lambda call: (1, 0), 'transpose': lambda call: _transposed(call), 'permute': lambda call: [
        axis % call.out.dim() for axis in call.args[1]]}
#: Wrappers whose forward runs ordinary operations.
TRANSPARENT_FUNCTIONS = ('CheckpointFunction',)


class _OpMode(TorchDispatchMode):
    """Apply the rule of every aten operation."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.tracer.paused:
            with torch.no_grad():
                _after_op(self.tracer, Call(func._schema.name.split('::')[-1].rstrip('_'), args, kwargs, out, func))
        return out


def _transposed(call: Call) -> Sequence[int]:
    axes = list(range(call.out.dim()))
    left, right = call.axis(1), call.axis(2)
    axes[left], axes[right] = right, left
    return axes


def _after_op(tracer: Tracer, call: Call) -> None:
    """Apply the rule of an operation."""
    rule = OP_RULES.get(call.name)
    waiting = tracer.deferred.of(call.args, call.kwargs)
    if waiting and call.name not in LOOKS:
        if not tracer.labels_in(call.args, call.kwargs):  # it meets nothing yet
            tracer.deferred.pass_on(waiting, call.out)
            tracer.follow_sources((call.args, call.kwargs), call.out)
            return
        tracer.settle(call.args, call.kwargs)
    if call.name in ORDERS and tracer.note_view(call.out, call.args[0], ORDERS[call.name](call)):
        return
    if rule is not None:
        rule(tracer, call)
    elif tracer.labels_in(call.args, call.kwargs):
        follow_nothing(tracer, call)
    tracer.follow_sources((call.args, call.kwargs), call.out)
    tracer.carry_reason(call.args, call.out)


def _after_function(tracer: Tracer, call: Call) -> None:
    """Freeze the inputs of a ``torch.autograd.Function`` whose result no operation has labelled."""
    if call.name not in TRANSPARENT_FUNCTIONS:
        tracer.settle(call.args)
    before = [] if call.name in TRANSPARENT_FUNCTIONS else tracer.labels_in(call.args)
    if before and not tracer.labels_in(output_tensors(call.out)):
        follow_nothing(tracer, call, f'{call.name} computes outside torch (add a rule with '
                                     f'mmprune.register_op({call.name!r}))')


class _LayerMode(TorchFunctionMode):
    """Apply the rule of every layer function; the operations inside it are not traced."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, '__name__', '')
        rule = LAYER_RULES.get(name)
        if self.tracer.paused:
            return func(*args, **kwargs)
        written = holds_written_size(args) or holds_written_size(list(kwargs.values()))
        if rule is None or not applies(self.tracer, name, args):
            self.tracer.size_is_written = written
            try:
                out = func(*args, **kwargs)
            finally:
                self.tracer.size_is_written = False
            if written:
                with torch.no_grad():
                    follow(self.tracer, name, args, kwargs, out)
            return out
        self.tracer.paused = True
        try:
            out = func(*args, **kwargs)
            if not args and 'input' in kwargs:
                args = (kwargs['input'],)
            with torch.no_grad():
                self.tracer.settle(args, kwargs)
                rule(self.tracer, Call(name, args, kwargs, out))
                self.tracer.follow_sources((args, kwargs), out, layer=True)
                if written:
                    follow(self.tracer, name, args, kwargs, out)
                self.tracer.carry_reason(args, out)
        finally:
            self.tracer.paused = False
        return out


class _Functions:
    """Apply rules to every ``torch.autograd.Function`` that runs; compiled operations hide behind them.

    Its ``forward`` is wrapped, since ``apply`` is often bound once, when its module is imported.
    """

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer
        self.wrapped: Dict[type, Any] = {}

    def __enter__(self) -> None:
        self.apply = torch.autograd.Function.__dict__['apply']
        for cls in _subclasses(torch.autograd.Function):
            self._wrap(cls)

        def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            self._wrap(cls)  # a class defined while the model runs
            return self.apply.__get__(None, cls)(*args, **kwargs)  # from torch 2.14 on it is written in C

        torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment, method-assign]

    def __exit__(self, *error: Any) -> None:
        torch.autograd.Function.apply = self.apply  # type: ignore[method-assign]
        for cls, forward in self.wrapped.items():
            cls.forward = forward  # type: ignore[attr-defined]

    def _wrap(self, cls: Any) -> None:
        forward = cls.__dict__.get('forward')
        if cls in self.wrapped or not isinstance(forward, staticmethod):
            return
        self.wrapped[cls] = forward
        first = 1 if cls.setup_context is torch.autograd.Function.setup_context else 0  # after the context
        cls.forward = staticmethod(lambda *args: self._run(cls.__name__, forward.__func__, args, args[first:]))

    def _run(self, name: str, forward: Callable[..., Any], args: Any, inputs: Any) -> Any:
        tracer = self.tracer
        whole = name in OP_RULES and not tracer.paused
        tracer.paused |= whole
        try:
            out = forward(*args)
        finally:
            tracer.paused &= not whole
        if not tracer.paused:
            (_after_op if whole else _after_function)(tracer, Call(name, inputs, {}, out))
        return out


def _subclasses(cls: type) -> List[type]:
    """Return all subclasses of a class, at any depth."""
    return [other for child in cls.__subclasses__() for other in (child, *_subclasses(child))]


def trace_model(model: nn.Module, forward: Callable[[nn.Module], Any], tells: bool = True) -> Trace:
    """Trace one forward pass in eval mode.

    Args:
        model (nn.Module): The model; its parameters, buffers and training flags are unchanged afterwards.
        forward (Callable): Called with the model; runs it and returns its outputs.
        tells (bool): Warn of layers that never run.

    Returns:
        Trace: Axes, ties, frozen ids and layer calls.
    """
    tracer = _first_that_runs(
        lambda: _trace(model, forward, follow_sizes=True, forget=True),
        lambda: _trace(model, forward, follow_sizes=True, forget=False),  # a forward may compute gradients
        lambda: _trace(model, forward, follow_sizes=False, forget=False))  # or look at the very type of its integers
    traced = tracer.result()
    if tells:
        _tell_never_run(model, [layer.layer for layer in traced.idle if layer.reason == NEVER_RUN])
    return traced


def _first_that_runs(*attempts: Callable[[], Tracer]) -> Tracer:
    """Return the result of the first attempt that raises no error; if there is none, raise the first error."""
    errors: List[Exception] = []
    for attempt in attempts:
        try:
            return attempt()
        except ERRORS as error:
            errors.append(error)
    raise errors[0]


def _trace(model: nn.Module, forward: Callable[[nn.Module], Any], follow_sizes: bool, forget: bool) -> Tracer:
    """Run the forward.

    Args:
        model (nn.Module): The model.
        forward (Callable): As for :func:`trace_model`.
        follow_sizes (bool): Follow sizes that modules write down to their channels; else they are plain numbers.
        forget (bool): Keep no activation for a backward pass.
    """
    tracer = Tracer(model)
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    forgotten = saved_tensors_hooks(lambda tensor: None, _refuse) if forget else nullcontext()
    with forgotten, unchanged_attributes(model), torch.random.fork_rng(list(devices)), seeded([0]), uncached_einops():
        model.eval()
        compared = plant(model) if follow_sizes else []
        for example in getattr(forward, 'examples', [forward]):
            _run(tracer, model, example)
            tracer.end_example()
        if tracer.unseen_layers:  # auxiliary heads run in training only, but read channels that may be pruned
            for module in model.modules():
                module.training = any(True for _ in module.children())
            _run_training_branches(tracer, model, forward)
        keep_compared(tracer, compared)
    weight.settle_computed(tracer)
    return tracer


def _refuse(nothing: None) -> Any:
    raise RuntimeError('activations are not kept while a model is traced')


def _tell_never_run(model: nn.Module, layers: Sequence[str]) -> None:
    """Warn of layers that no example reaches: what they read may be cut all the same."""
    if layers:
        names = whole_modules(model, layers)
        more = f' and {len(names) - 5} more' if len(names) > 5 else ''
        print_log(f'{len(layers)} conv and linear layers of {type(model).__name__} never run on the demo input: '
                  f'{", ".join(map(repr, names[:5]))}{more}. What they read is cut as if they were not there, so that '
                  'they cannot run any more; give a list of examples that reaches them, or exclude what they read',
                  logger='current', level=logging.WARNING)


def _run(tracer: Tracer, model: nn.Module, forward: Callable[[nn.Module], Any]) -> None:
    """Run the forward and freeze its outputs."""
    # With gradients enabled attention is not collapsed into one fused operation.
    with torch.enable_grad(), ModuleRules(tracer).shown(model), _Functions(tracer), _OpMode(tracer), \
            _LayerMode(tracer), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Converting a tensor with requires_grad=True to a scalar')
        outputs = forward(model)
    tracer.settle(output_tensors(outputs))
    for tensor in output_tensors(outputs):
        labels = tracer.labels.get(tensor)
        if labels is not None:
            tracer.freeze(labels, OUTPUT, where=False)
        tracer.computed_with |= tracer.sources.get(tensor, frozenset())


def _run_training_branches(tracer: Tracer, model: nn.Module, forward: Callable[[nn.Module], Any]) -> None:
    """Run the forward with its training branches; norms and dropout, modules without children, stay in eval mode."""
    tracer.training_only = True
    try:
        _run(tracer, model, forward)
    except ERRORS as error:
        tracer.paused, tracer.whole_module = False, None  # a forward that needs labels, or larger images
        print_log(f'the training branches of {type(model).__name__} were not traced ({error}); layers that run in '
                  'training only stay as they are', logger='current', level=logging.INFO)
    finally:
        tracer.training_only = False
