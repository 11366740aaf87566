"""Export to ONNX by torch alone, without mmdeploy, with the same result on every supported torch."""
import contextlib
import importlib.util
import inspect
import io
import os
import warnings
from typing import Any, Collection, Dict, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from ..arguments import UserError, one_of
from ..files import whole_file
from ..graph.nested import output_tensors
from ..graph.raw_outputs import raw_outputs
from .folding.norms import fold_norms

EXPORTERS = ('torchscript', 'dynamo')
#: Whether ``torch.onnx.export`` has both exporters; older versions have the first only.
HAS_DYNAMO = 'dynamo' in inspect.signature(torch.onnx.export).parameters
#: What the dimensions of an input are called where they stay free.
DIMENSIONS = ('batch', 'channels', 'height', 'width')


class DeployOutput(nn.Module):
    """A model, of OpenMMLab or any other, whose forward takes an image batch and returns what users deploy.

    A classifier returns class scores, as in mmdeploy's classification export: the softmax of its logits, or their
    sigmoid for a multi-label head. Any other model returns the tensors of ``mode='tensor'``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.scores = score_function(model)

    def forward(self, input: Tensor) -> Union[Tensor, Tuple[Tensor, ...]]:
        """Return scores ``Tensor[N, classes]``, or the output tensor, or all of several, for ``Tensor[N, C, H, W]``."""
        raw = raw_outputs(self.model, input)
        if self.scores != 'none':
            return to_scores(raw, self.scores)
        tensors = tuple(output_tensors(raw))
        return tensors[0] if len(tensors) == 1 else tensors


def score_function(model: nn.Module) -> str:
    """Return how the model's raw output becomes scores: ``softmax``, ``sigmoid`` or ``none``."""
    heads = {base.__name__ for base in type(getattr(model, 'head', None)).__mro__}
    if 'MultiLabelClsHead' in heads:
        return 'sigmoid'
    return 'softmax' if 'ClsHead' in heads else 'none'


def to_scores(logits: Union[Tensor, Sequence[Tensor]], function: str) -> Tensor:
    """Return class scores ``Tensor[N, classes]`` of logits of that shape, by the function ``softmax`` or ``sigmoid``.

    A Conformer has a list of two logits, which are added.
    """
    total = logits if isinstance(logits, Tensor) else torch.stack(list(logits)).sum(dim=0)
    return total.softmax(dim=1) if function == 'softmax' else total.sigmoid()


def export_onnx(model: nn.Module, x: Tensor, path: Union[str, 'os.PathLike[str]'],
                dynamic: Union[bool, Collection[int]] = False, exporter: str = 'torchscript',
                folds_norms: bool = True) -> DeployOutput:
    """Write a model as a single ONNX file with the input ``input`` and the output ``output``.

    Args:
        model (nn.Module): In eval mode and already switched to deployment.
        x (Tensor[N, C, H, W]): An input; it fixes the shape.
        path (str): The file; it appears whole or not at all.
        dynamic (bool | list[int]): The batch size stays free, or these dimensions of the input do.
        exporter (str): ``torchscript``, on every supported torch and ten times as fast, or ``dynamo``, which needs
            torch 2.5 or newer and onnxscript. Both files run equally fast, but for attentions, whose scale only the
            first leaves to the product.
        folds_norms (bool): Norms over a stream that was cut cost what plain ones do, where weights can take over their
            means: :func:`~.folding.norms.fold_norms`. Not where other dimensions than the batch size stay free.

    Returns:
        DeployOutput: The PyTorch module with the outputs of the file, to compare with; its norms are as they were.

    Raises:
        UserError: The exporter is unknown, not part of this torch, or needs a package that is not installed.
    """
    if one_of('exporter', exporter, EXPORTERS) == 'dynamo' and not HAS_DYNAMO:
        raise UserError(f"exporter 'dynamo' needs torch 2.5 or newer, this is {torch.__version__}; "
                        "use 'torchscript'")
    if exporter == 'dynamo' and importlib.util.find_spec('onnxscript') is None:
        raise UserError("exporter 'dynamo' needs onnxscript: pip install onnxscript, or use 'torchscript'")
    wrapped = DeployOutput(model).eval()
    free = {dim: DIMENSIONS[dim] for dim in ((0, ) if dynamic is True else dynamic or ())}
    written = fold_norms(wrapped, x) if folds_norms and not {*free} - {0} else wrapped
    # the exporters print about tracing and deprecation; whether the result is right is for the parity check
    with whole_file(path) as temporary, torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(
            io.StringIO()):
        warnings.simplefilter('ignore')
        torch.onnx.export(written, **_version_arguments(wrapped, x, free, exporter), f=str(temporary),
                          input_names=['input'])
    return wrapped


def _version_arguments(wrapped: nn.Module, x: Tensor, free: Dict[int, str], exporter: str) -> Dict[str, Any]:
    """Return the arguments of ``torch.onnx.export`` that differ between exporters and versions of torch."""
    count = len(output_tensors(wrapped(x)))
    names = ['output'] if count == 1 else [f'output{i}' for i in range(count)]
    if exporter == 'dynamo':
        shapes = {'input': {dim: torch.export.Dim(name) for dim, name in free.items()}} if free else None
        if 0 in free and x.size(0) == 1:  # torch.export takes a size of 1 for a constant
            x = torch.cat([x, x])
        return dict(args=(x, ), output_names=names, dynamo=True, dynamic_shapes=shapes, external_data=False,
                    verbose=False)
    axes = {'input': free, **{name: {0: 'batch'} for name in names if 0 in free}} if free else None
    return dict(args=(x, ), output_names=names, dynamic_axes=axes, **(dict(dynamo=False) if HAS_DYNAMO else {}))
