"""mmdeploy exports on a newer torch than it was written for.

It calls ``torch.onnx.export`` without naming the exporter, which was TorchScript's; from torch 2.9 on the default is
the other one, which knows none of mmdeploy's symbolic functions. Its RoIAlign imports a helper that torch has dropped.
This is a rewriter of mmdeploy's own kind: it holds during its exports only, in every process that reads our configs.
"""
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any, Iterator

from mmdeploy.core import FUNCTION_REWRITER
from torch import Tensor, nn
from torch.onnx import symbolic_opset9

from .folding.norms import fold_norms
from .onnx_export import HAS_DYNAMO


def _cast_long(g: Any, value: Any, non_blocking: bool) -> Any:
    """Return the ONNX node that casts a value to 64-bit integers."""
    return g.op('Cast', value, to_i=7)  # TensorProto.INT64


@contextmanager
def _dropped_helpers() -> Iterator[None]:
    """Give ``torch.onnx.symbolic_opset9`` what mmdeploy imports from it."""
    missing = not hasattr(symbolic_opset9, '_cast_Long')
    if missing:
        symbolic_opset9._cast_Long = _cast_long
    try:
        yield
    finally:
        if missing:
            del symbolic_opset9._cast_Long


@FUNCTION_REWRITER.register_rewriter('torch.onnx.export')
def export__torchscript(model: nn.Module, args: Any, *places: Any, **kwargs: Any) -> Any:
    """Call ``torch.onnx.export`` with the exporter that mmdeploy was written for; arguments and result are its own.

    Exact norms of a stream are folded as :func:`~.onnx_export.export_onnx` does it, where the input has one size.
    """
    context = FUNCTION_REWRITER.get_context()
    free = {axis for axes in (kwargs.get('dynamic_axes') or {}).values() for axis in axes}
    inputs = args if isinstance(args, tuple) else (args, )
    if len(inputs) == 1 and isinstance(inputs[0], Tensor) and not free - {0}:
        model = folded(model, inputs[0])
    with _dropped_helpers():
        return context.origin_func(model, args, *places, **{**({'dynamo': False} if HAS_DYNAMO else {}), **kwargs})


def folded(model: nn.Module, x: Tensor) -> nn.Module:
    """Return :func:`~.folding.norms.fold_norms` of a model whose forward mmdeploy has given its other arguments."""
    forward = vars(model).get('forward')  # of this object: a copy would run the forward of the model itself
    if not isinstance(forward, partial) or forward.args:
        return fold_norms(model, x)
    plain = copy(model)
    del plain.__dict__['forward']
    found = fold_norms(plain, x, lambda one, x: one(x, **forward.keywords))
    if found is plain:
        return model
    own = found.forward

    def with_any(*args: Any, **kwargs: Any) -> Any:  # torch.onnx.export looks at the names of arguments
        return own(*args, **kwargs)

    found.__dict__['forward'] = partial(with_any, **forward.keywords)
    return found
