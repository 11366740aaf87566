"""Compare predictions of a file that mmdeploy exported with PyTorch's: boxes after the NMS, or keypoints."""
import copy
import os
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple, Union

import torch
from mmengine.structures import BaseDataElement, InstanceData
from torch import Tensor, nn

from ..units.equivalence import relative_difference
from .onnx_runtime import Latency, OnnxModel, ParityError, latency_of_both

TOLERANCE = 1e-3  # largest relative difference of two boxes, scores or keypoints that count as equal
SHARE = 0.95  # of the boxes must be equal: where an overlap is at its threshold, two correct NMS may differ


class Agreement(NamedTuple):
    """How far two predictions agree."""

    difference: float  # largest relative difference of boxes or keypoints that count as equal
    matched: int  # boxes or keypoints that count as equal
    total: int  # boxes or keypoints of the longer prediction

    @property
    def share(self) -> float:
        """Share that is equal; 0 if nothing is predicted."""
        return self.matched / self.total if self.total else 0.0


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


def compare_predictions(wanted: Sequence[InstanceData], found: Sequence[InstanceData],
                        tolerance: float = TOLERANCE) -> Agreement:
    """Compare predictions image by image, boxes or keypoints."""
    parts = [_compare_keypoints(left, right, tolerance) if 'keypoints' in left else
             compare_boxes(left, right, tolerance) for left, right in zip(wanted, found)]
    return Agreement(max(part.difference for part in parts), sum(part.matched for part in parts),
                     sum(part.total for part in parts))


def compare_boxes(wanted: InstanceData, found: InstanceData, tolerance: float = TOLERANCE) -> Agreement:
    """Match boxes of the same label one to one, those of high scores first.

    Args:
        wanted (InstanceData): ``bboxes`` ``Tensor[N, 4]``, ``scores`` ``Tensor[N]``, ``labels`` ``Tensor[N]``.
        found (InstanceData): The same of another model; boxes without an area do not count.
        tolerance (float): Largest difference of coordinates relative to the largest, and of scores relative to the
            highest, at which two boxes are equal.
    """
    found = found[(found.bboxes[:, 2:] > found.bboxes[:, :2]).all(dim=1)]
    total = max(len(wanted), len(found))
    if not (len(wanted) and len(found)):
        return Agreement(0.0, 0, total)
    gaps = torch.maximum(
        (wanted.bboxes[:, None] - found.bboxes[None]).abs().amax(dim=2) / wanted.bboxes.abs().max(),
        (wanted.scores[:, None] - found.scores[None]).abs() / wanted.scores.max())
    gaps[wanted.labels[:, None] != found.labels[None]] = float('inf')
    matched: List[float] = []
    for row in wanted.scores.argsort(descending=True).tolist():
        gap, column = gaps[row].min(dim=0)
        if gap <= tolerance:
            matched.append(float(gap))
            gaps[:, column] = float('inf')
    return Agreement(max(matched, default=0.0), len(matched), total)


def _compare_keypoints(wanted: InstanceData, found: InstanceData, tolerance: float) -> Agreement:
    pairs = [[torch.as_tensor(data.keypoints), torch.as_tensor(data.keypoint_scores)] for data in (wanted, found)]
    gap = relative_difference(*pairs)
    count = pairs[0][1].numel()
    return Agreement(gap, count if gap <= tolerance else 0, count)


def check_predictions(task: Any, model: nn.Module, path: Union[str, 'os.PathLike[str]'], inputs: Inputs) -> Agreement:
    """Compare mmdeploy's predictions by an exported file with those of the PyTorch model, in eval mode and deployed.

    Raises:
        ParityError: Less than ``SHARE`` of the boxes agree, or any keypoint differs, or the model predicts nothing.
    """
    backend = task.build_backend_model([str(path)], data_preprocessor_updater=task.update_data_preprocessor)
    wanted, found = predict(model, inputs), predict(backend, inputs)
    agreement = compare_predictions([_best(task, *pair) for pair in zip(wanted, found)], found)
    if not agreement.total:
        raise ParityError('the model finds nothing on this image, so there is nothing to compare; name another image')
    if agreement.share < SHARE:
        raise ParityError(f'{agreement.matched} of {agreement.total} predictions of onnxruntime are those of PyTorch '
                          f'within {TOLERANCE:g}, less than {SHARE:.0%}. The file must not be deployed')
    return agreement


def _best(task: Any, wanted: InstanceData, found: InstanceData) -> InstanceData:
    """Return the best boxes, as many as a file has at most, if it has so many: YOLOX itself knows no limit."""
    most = (task.deploy_cfg.codebase_config.get('post_processing') or {}).get('keep_top_k')
    return wanted[wanted.scores.argsort(descending=True)[:most]] if most == len(found) < len(wanted) else wanted


def compare_latency(model: nn.Module, path: Union[str, 'os.PathLike[str]'], inputs: Inputs, threads: int = 1,
                    rounds: int = 30) -> Dict[str, Latency]:
    """Time a prediction of the PyTorch model, post-processing included, and a run of the file, in turns."""
    return latency_of_both(lambda: predict(model, inputs), OnnxModel(path, threads), inputs.x, threads, rounds)


def compare(task: Any, model: nn.Module, path: Union[str, 'os.PathLike[str]'], image: str, threads: int = 1,
            rounds: int = 30) -> Tuple[Agreement, Dict[str, Latency]]:
    """Check an exported file against PyTorch on an image and time both.

    Raises:
        ParityError: The predictions differ.
    """
    inputs = image_inputs(task, model, image)
    return check_predictions(task, model, path, inputs), compare_latency(model, path, inputs, threads, rounds)
