"""Plain torch export to ONNX, on every supported torch, without mmdeploy."""
import contextlib
import inspect
import io
import os
import warnings
from typing import Any, Dict, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from ..arguments import one_of
from ..files import whole_file
from ..graph.demo_input import raw_outputs
from ..graph.nested import output_tensors

EXPORTERS = ('torchscript', 'dynamo')
#: ``torch.onnx.export`` has both exporters; older versions know the first one only
HAS_DYNAMO = 'dynamo' in inspect.signature(torch.onnx.export).parameters


class DeployOutput(nn.Module):
    """A model whose forward takes an image batch and returns what users deploy.

    A classifier gives class scores, as mmdeploy's classification export does: the softmax of its logits, or their
    sigmoid for a multi-label head. Any other model gives the tensors of ``mode='tensor'``.

    Args:
        model (nn.Module): An OpenMMLab model, or any module.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.scores = score_function(model)

    def forward(self, input: Tensor) -> Union[Tensor, Tuple[Tensor, ...]]:
        """Return scores ``Tensor[N, classes]``, or all output tensors where there are several."""
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
    """Return class scores ``Tensor[N, classes]``.

    Args:
        logits (Tensor[N, classes] or list of them): Output of the head; a Conformer has two, which are added.
        function (str): ``softmax`` or ``sigmoid``.
    """
    total = logits if isinstance(logits, Tensor) else torch.stack(list(logits)).sum(dim=0)
    return total.softmax(dim=1) if function == 'softmax' else total.sigmoid()


def export_onnx(model: nn.Module, x: Tensor, path: Union[str, 'os.PathLike[str]'], dynamic: bool = False,
                exporter: str = 'torchscript') -> DeployOutput:
    """Write a model as one ONNX file with the input ``input`` and the output ``output``.

    Args:
        model (nn.Module): In eval mode and already switched to deployment.
        x (Tensor[N, C, H, W]): An input; it fixes the shape.
        path (str): The file; it appears whole or not at all.
        dynamic (bool): The batch size stays free.
        exporter (str): ``torchscript`` is there on every supported torch, gives the same graph on all of them and
            takes a tenth of the time; ``dynamo`` needs torch 2.5 or newer and onnxscript. Both run equally fast.

    Returns:
        DeployOutput: The PyTorch module with the outputs of the file, for comparing.

    Raises:
        ValueError: The exporter is unknown or not part of this torch.
    """
    if one_of('exporter', exporter, EXPORTERS) == 'dynamo' and not HAS_DYNAMO:
        raise ValueError(f"exporter 'dynamo' needs torch 2.5 or newer, this is {torch.__version__}; "
                         "use 'torchscript'")
    wrapped = DeployOutput(model).eval()
    # the exporters talk about tracing and deprecation; the parity check judges the result
    with whole_file(path) as temporary, torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(
            io.StringIO()):
        warnings.simplefilter('ignore')
        torch.onnx.export(wrapped, (x, ), str(temporary), input_names=['input'],
                          **_version_arguments(wrapped, x, dynamic, exporter))
    return wrapped


def _version_arguments(wrapped: nn.Module, x: Tensor, dynamic: bool, exporter: str) -> Dict[str, Any]:
    """Return the arguments of ``torch.onnx.export`` that differ between exporters and versions: here and only here."""
    count = len(output_tensors(wrapped(x)))
    names = ['output'] if count == 1 else [f'output{i}' for i in range(count)]
    if exporter == 'dynamo':
        shapes = {'input': {0: torch.export.Dim('batch')}} if dynamic else None
        return dict(output_names=names, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
    axes = {name: {0: 'batch'} for name in ['input', *names]} if dynamic else None
    arguments: Dict[str, Any] = dict(output_names=names, dynamic_axes=axes)
    if HAS_DYNAMO:
        arguments['dynamo'] = False
    return arguments
