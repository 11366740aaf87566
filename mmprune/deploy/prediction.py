"""Compare predictions of a file that mmdeploy exported with PyTorch's: boxes after the NMS, or keypoints."""
import copy
import functools
import os
from typing import Any, List, NamedTuple, Sequence, Tuple, Union

import torch
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor, nn

from . import logits
from .box_match import TOLERANCE, Agreement, compare_boxes
from .comparison import latency_of_both
from .keypoint_match import compare_keypoints
from .nms_candidates import rules_of, without_nms
from .onnx_export import DeployOutput
from .onnx_runtime import OnnxModel, ParityError, check_parity
from .timing import Timing


class Inputs(NamedTuple):
    """An image as the input of a model."""

    x: Tensor  # [N, C, H, W], normalised and padded
    samples: List[BaseDataElement]  # its metadata from the pipeline


def image_inputs(task: Any, model: nn.Module, image: str) -> Inputs:
    """Send an image through the pipeline of a task of mmdeploy and the data preprocessor of its model.

    Boxes are clipped to the padded image, as mmdeploy's detectors do, which do not know where the padding begins.
    """
    shape = (task.deploy_cfg.get('onnx_config') or {}).get('input_shape')
    data, _ = task.create_input(image, shape, data_preprocessor=model.data_preprocessor)
    x, samples = data['inputs'], data['data_samples']
    for sample in samples:
        if 'img_shape' in sample.metainfo:
            sample.set_metainfo(dict(img_shape=tuple(x.shape[-2:])))
    return Inputs(x, samples)


def predict(model: nn.Module, inputs: Inputs) -> List[InstanceData]:
    """Return what a model predicts for each image; the inputs are not changed."""
    with torch.no_grad():
        samples = model(inputs.x, copy.deepcopy(inputs.samples), mode='predict')
    return [sample.pred_instances for sample in samples]


def combined(parts: Sequence[Agreement]) -> Agreement:
    """Return the agreement of several images."""
    return Agreement(max((part.difference for part in parts), default=0.0), sum(part.matched for part in parts),
                     sum(part.total for part in parts), sum(part.explained for part in parts),
                     '; '.join(part.text for part in parts if part.text))


def compare_predictions(wanted: Sequence[InstanceData], found: Sequence[InstanceData]) -> Agreement:
    """Compare predictions image by image, boxes or keypoints; nothing is explained."""
    return combined([compare_keypoints(left, right) if 'keypoints' in left else compare_boxes(left, right)
                     for left, right in zip(wanted, found)])


def check_predictions(task: Any, model: nn.Module, path: Union[str, 'os.PathLike[str]'], inputs: Inputs) -> Agreement:
    """Compare mmdeploy's predictions by an exported file with those of the PyTorch model, in eval mode and deployed.

    Raises:
        ParityError: A box or keypoint differs, and no last digit of float32 explains it, or the model predicts nothing.
    """
    backend = task.build_backend_model([str(path)], data_preprocessor_updater=task.update_data_preprocessor)
    wanted, found = predict(model, inputs), predict(backend, inputs)
    if 'keypoints' in wanted[0]:
        agreement = _keypoints(model, path, inputs, wanted, found)
    else:
        agreement = _boxes(task, model, inputs, wanted, found)
    if agreement.text:
        raise ParityError(f'{agreement.matched} of {agreement.total} predictions of onnxruntime are those of PyTorch '
                          f'within {TOLERANCE:g}: {agreement.text}. The file must not be deployed: export it again '
                          'from this checkpoint; if it still differs, tools/export_onnx.py tells whether the network '
                          'or its post-processing is exported wrongly')
    if not agreement.matched:
        raise ParityError('the model finds nothing on this image, or nothing above rounding at its score threshold, so '
                          'there is nothing to compare; name another image')
    return agreement


def summary(agreement: Agreement) -> str:
    """Return the line that tells how many predictions are equal, and why others are not."""
    line = f'{agreement.matched} of {agreement.total} predictions are equal within {TOLERANCE:g}'
    if not agreement.explained:
        return line
    return f'{line}; a limit, a threshold or a tie decides on {agreement.explained} more'


def _keypoints(model: nn.Module, path: Union[str, 'os.PathLike[str]'], inputs: Inputs,
               wanted: Sequence[InstanceData], found: Sequence[InstanceData]) -> Agreement:
    """Compare what the network returns, where the file returns it, and the keypoints."""
    network, onnx_model = DeployOutput(model).eval(), OnnxModel(path)
    maps, _ = logits.run(network, inputs.x)
    if [tensor.shape for tensor in onnx_model(inputs.x)] == [tensor.shape for tensor in maps]:
        check_parity(onnx_model, network, inputs.x)
    return combined([compare_keypoints(left, right, [tensor[i:i + 1] for tensor in maps])
                     for i, (left, right) in enumerate(zip(wanted, found))])


def _boxes(task: Any, model: nn.Module, inputs: Inputs, wanted: Sequence[InstanceData],
           found: Sequence[InstanceData]) -> Agreement:
    """Compare boxes after the NMS, and tell those that rounding lets it decide otherwise."""
    rules = rules_of(model, task.deploy_cfg.codebase_config.get('post_processing') or {})

    def candidates(image: int, more: bool) -> InstanceData:
        with without_nms(model, more):
            return predict(model, inputs)[image]

    return combined([compare_boxes(left, right, rules, functools.partial(candidates, i))
                     for i, (left, right) in enumerate(zip(wanted, found))])


def compare_latency(model: nn.Module, path: Union[str, 'os.PathLike[str]'], inputs: Inputs, threads: int = 1,
                    rounds: int = 30) -> Timing:
    """Time a prediction of the PyTorch model, post-processing included, and a run of the file, in turns."""
    return latency_of_both(lambda _: predict(model, inputs), path, inputs.x, threads, rounds)


def compare(task: Any, model: nn.Module, path: Union[str, 'os.PathLike[str]'], inputs: Inputs, threads: int = 1,
            rounds: int = 30) -> Tuple[Agreement, Timing]:
    """Check an exported file against PyTorch on an image and time both.

    Raises:
        ParityError: The predictions differ.
    """
    return check_predictions(task, model, path, inputs), compare_latency(model, path, inputs, threads, rounds)
