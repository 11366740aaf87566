"""mmdeploy exports on a newer torch than it was written for.

It calls ``torch.onnx.export`` without naming the exporter, which was TorchScript's; from torch 2.9 on the default is
the other one, which knows none of mmdeploy's symbolic functions. Its RoIAlign imports a helper that torch has dropped.
This is a rewriter of mmdeploy's own kind: it holds during its exports only, in every process that reads our configs.
"""
from contextlib import contextmanager
from typing import Any, Iterator

from mmdeploy.core import FUNCTION_REWRITER
from torch.onnx import symbolic_opset9

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


def export__torchscript(*args: Any, **kwargs: Any) -> Any:
    """Call ``torch.onnx.export`` with the exporter that mmdeploy was written for; arguments and result are its own."""
    context = FUNCTION_REWRITER.get_context()
    with _dropped_helpers():
        return context.origin_func(*args, **{'dynamo': False, **kwargs})


if HAS_DYNAMO:
    FUNCTION_REWRITER.register_rewriter('torch.onnx.export')(export__torchscript)
