"""INT8 after training: ranges of activations from images, and files in onnxruntime's two formats.

Weights are quantised symmetrically, one scale an output channel; activations with one scale and zero point a tensor,
by onnxruntime.quantization. Only the network is, see ``quantized_nodes.py``.
"""
import contextlib
import io
import logging
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Union

import numpy as np
from torch import Tensor

from ..arguments import UserError, one_of, optional_package
from ..files import whole_file
from .machine import has_integer_dot_products
from .onnx_runtime import OnnxModel, onnxruntime_package
from .quantized_nodes import LAYERS, PASSING, cut_to, named, network_of

#: ``QDQ`` marks what is quantised and is read by other runtimes, too; ``QOperator`` names onnxruntime's own operators.
FORMATS = ('QDQ', 'QOperator')
#: Shares of the values of a tensor, in per cent, that a range may hold; 100 is from the least to the largest.
PERCENTILES = (99.99, 99.999, 100.0)
OPERATORS = (*LAYERS, *PASSING)
#: The first opset in which a scale may belong to a channel.
LEAST_OPSET = 13

PathLike = Union[str, 'os.PathLike[str]']
Ranges = Any  # onnxruntime's TensorsData: tensor -> range


class Quantizer:
    """Writes a file in INT8, any number of times.

    Args:
        path (str): The file, in float32.
        images (iterable[Tensor]): Batches ``Tensor[N, C, H, W]``, preprocessed, from which the ranges come. The
            activations of one batch at a time are in memory.

    Raises:
        UserError: It has no layer that could be quantised, or its opset is older than 13.
        MissingPackageError: onnx or onnxruntime is not installed.
    """

    def __init__(self, path: PathLike, images: Iterable[Tensor]) -> None:
        self.path = Path(path)
        self.model = preprocessed(self.path)
        self.network = network_of(self.model)
        if not self.network.layers:
            raise UserError(f'{str(path)!r} has no convolution or linear layer that could be quantised')
        self.cut = cut_to(self.model, self.network.outputs)
        self.ranges = ranges_of(self.cut, images)
        _give_softmax_a_range(self.model, self.ranges)
        self.percentile = PERCENTILES[-1]  #: whose ranges count

    def write(self, path: PathLike, form: str = FORMATS[0], left_in_float: Sequence[str] = ()) -> Path:
        """Write the whole file in INT8; return its path.

        Args:
            path (str): Where; it appears whole or not at all.
            form (str): One of :data:`FORMATS`.
            left_in_float (list[str]): Names of layers.
        """
        return self._written(self.model, path, form, left_in_float)

    def write_network(self, path: PathLike, left_in_float: Sequence[str] = (), only: Optional[str] = None,
                      form: str = FORMATS[0]) -> Path:
        """Write the network alone, up to its head; return its path.

        Args:
            path (str): Where.
            left_in_float (list[str]): Names of layers.
            only (str, optional): Quantise this layer alone.
            form (str): One of :data:`FORMATS`.
        """
        return self._written(self.cut, path, form, left_in_float, only)

    def write_float(self, path: PathLike) -> Path:
        """Write the network alone in float32; return its path."""
        return _save(self.cut, path)

    def _written(self, model: Any, path: PathLike, form: str, left_in_float: Sequence[str],
                 only: Optional[str] = None) -> Path:
        import onnx  # an optional dependency
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
        from onnxruntime.quantization.quant_utils import QuantizationMode

        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        chosen = {only} if only is not None else {*self.network.quantized} - {*left_in_float}
        if not chosen & {*self.network.layers}:
            return _save(model, path)  # additions alone are not worth their conversions
        rest = [node.name for node in model.graph.node if node.name not in chosen]
        common: List[Any] = [self.ranges[self.percentile], [], rest, [*OPERATORS], {}]
        mode = (QuantizationMode.QLinearOps, True) if one_of('form', form, FORMATS) == 'QOperator' else ()
        kind = ONNXQuantizer if mode else QDQQuantizer
        with _quiet():
            quantizer = kind(copy, True, not has_integer_dot_products(), *mode, QuantType.QInt8, QuantType.QUInt8,
                             *common)
            quantizer.quantize_model()
        return _save(quantizer.model.model, path)


def preprocessed(path: Path) -> Any:
    """Return a model with the shapes of its tensors, optimised by onnxruntime so that norms are part of convolutions.

    Raises:
        UserError: Its opset is older than 13.
    """
    onnx = optional_package('onnx', 'onnx onnxruntime')
    onnxruntime_package()
    from onnxruntime.quantization.shape_inference import quant_pre_process

    version = next((item.version for item in onnx.load(str(path), load_external_data=False).opset_import
                    if item.domain in ('', 'ai.onnx')), 0)
    if version < LEAST_OPSET:
        raise UserError(f'{str(path)!r} is of opset {version}; a scale for each channel needs {LEAST_OPSET}: set '
                        f'onnx_config.opset_version={LEAST_OPSET} in the deploy config and export it again')
    with tempfile.TemporaryDirectory() as folder, _quiet():
        out = str(Path(folder) / 'preprocessed.onnx')
        quant_pre_process(str(path), out, skip_symbolic_shape=True)
        return named(onnx.load(out))


def ranges_of(model: Any, images: Iterable[Tensor]) -> Dict[float, Ranges]:
    """Return percentile -> the ranges of all activations, for each of :data:`PERCENTILES`.

    Args:
        model (onnx.ModelProto): In float32.
        images (iterable[Tensor]): Batches ``Tensor[N, C, H, W]``.

    Raises:
        UserError: There are no images.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = _save(model, Path(folder) / 'network.onnx')
        calibrator = create_calibrator(path, [*OPERATORS], augmented_model_path=str(Path(folder) / 'augmented.onnx'),
                                       calibrate_method=CalibrationMethod.Percentile)
        name = model.graph.input[0].name
        for batch in images:
            calibrator.collect_data(_Reader(name, batch))
        if calibrator.collector is None:
            raise UserError('there are no images from which the ranges of INT8 could come')
        found = {}
        for percentile in PERCENTILES:
            calibrator.collector.percentile = percentile
            found[percentile] = calibrator.compute_data()
        return found


def _give_softmax_a_range(model: Any, ranges: Mapping[float, Ranges]) -> None:
    """Add ranges for outputs that stay in float: onnxruntime 1.19 sets those of every softmax that it sees."""
    from onnxruntime.quantization.calibrate import TensorData

    for node in model.graph.node:
        if node.op_type == 'Softmax':
            for known in ranges.values():
                known.data.setdefault(node.output[0], TensorData(lowest=np.float32(0), highest=np.float32(1)))


class _Reader:
    """A batch, as onnxruntime's calibrators ask for it."""

    def __init__(self, name: str, batch: Tensor) -> None:
        self._left = [{name: batch.cpu().numpy()}]

    def get_next(self) -> Optional[Dict[str, Any]]:
        """Return the batch once, then None."""
        return self._left.pop() if self._left else None


def _save(model: Any, path: PathLike) -> Path:
    import onnx  # an optional dependency
    with whole_file(path) as temporary:
        onnx.save(model, str(temporary))
    return Path(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what onnxruntime.quantization prints and logs to itself."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def run(path: PathLike, images: Iterable[Tensor], threads: int = 1) -> List[List[Tensor]]:
    """Return the outputs of a file for each batch."""
    model = OnnxModel(path, threads)
    return [model(batch) for batch in images]
