"""Comparing predictions: boxes are matched one to one, keypoints in order."""
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import BaseDataElement, InstanceData

from mmprune.deploy.onnx_export import export_onnx
from mmprune.deploy.prediction import (
    Inputs,
    ParityError,
    check_predictions,
    compare_boxes,
    compare_latency,
    compare_predictions,
    predict,
)

BOXES = [[0, 0, 10, 10], [50, 50, 100, 80], [20, 20, 30, 40]]


def detections(boxes=BOXES, scores=(0.9, 0.8, 0.5), labels=(1, 1, 2)):
    return InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float).reshape(-1, 4), scores=torch.tensor(scores),
                        labels=torch.tensor(labels, dtype=torch.long))


def test_order_does_not_matter():
    assert compare_boxes(detections(), detections()[[2, 0, 1]]) == (0, 3, 3)


@pytest.mark.parametrize(('change', 'matched'), [
    (dict(boxes=[[0, 0, 10, 10.05], *BOXES[1:]]), 3),  # 0.0005 of the largest coordinate, 100
    (dict(boxes=[[0, 0, 10, 10.2], *BOXES[1:]]), 2), (dict(scores=(0.9, 0.8, 0.502)), 2), (dict(labels=(1, 2, 2)), 2)])
def test_boxes_scores_and_labels_count(change, matched):
    agreement = compare_boxes(detections(), detections(**change))
    assert (agreement.matched, agreement.total) == (matched, 3)
    assert agreement.difference == pytest.approx(5e-4 if matched == 3 else 0, rel=1e-3)


def test_a_box_counts_once_and_one_without_an_area_not_at_all():
    twice = detections([BOXES[0], BOXES[0], BOXES[2]])
    assert compare_boxes(twice, detections([BOXES[0], [5, 5, 5, 9], BOXES[2]], (0.9, 0.8, 0.5))).matched == 2
    assert compare_boxes(detections(), detections([*BOXES, [5, 5, 9, 5]], (0.9, 0.8, 0.5, 0.4), (1, 1, 2, 0))) == (
        0, 3, 3)
    assert compare_boxes(detections(), detections([], (), ())) == (0, 0, 3)


def keypoints(x=7.0):
    return InstanceData(keypoints=np.array([[[x, 100.0], [3.0, 4.0]]]), keypoint_scores=np.array([[0.5, 0.25]]))


def test_keypoints():
    assert compare_predictions([keypoints()], [keypoints(7.05)]) == pytest.approx((5e-4, 2, 2))
    assert compare_predictions([keypoints()], [keypoints(8)]) == pytest.approx((0.01, 0, 2))


class Predicts(torch.nn.Module):
    def __init__(self, instances):
        super().__init__()
        self.instances = instances

    def forward(self, x, samples, mode):
        assert mode == 'predict'
        samples[0].pred_instances = self.instances
        return samples


class Task:
    """mmdeploy's, with a file that predicts the given instances."""

    update_data_preprocessor = None
    deploy_cfg = ConfigDict(codebase_config=dict(post_processing=dict(keep_top_k=2)))

    def __init__(self, instances):
        self.instances = instances

    def build_backend_model(self, files, data_preprocessor_updater):
        assert files == ['x.onnx']
        return Predicts(self.instances)


@pytest.mark.parametrize(('wanted', 'found', 'message'), [
    (detections(), detections(labels=(1, 1, 3)), r'2 of 3 predictions .* within 0\.001, less than 95%'),
    (detections([], (), ()), detections([], (), ()), 'nothing on this image'),
    (keypoints(), keypoints(9), '0 of 2 predictions')])
def test_parity_error(wanted, found, message):
    inputs = Inputs(torch.zeros(1, 3, 4, 4), [BaseDataElement()])
    with pytest.raises(ParityError, match=message):
        check_predictions(Task(found), Predicts(wanted), 'x.onnx', inputs)
    if len(wanted):
        assert check_predictions(Task(wanted), Predicts(wanted), 'x.onnx', inputs).share == 1


def test_a_file_may_have_a_limit_that_the_model_has_not():
    inputs = Inputs(torch.zeros(1, 3, 4, 4), [BaseDataElement()])
    shuffled = detections()[[2, 0, 1]]
    assert check_predictions(Task(detections()[:2]), Predicts(shuffled), 'x.onnx', inputs) == (0, 2, 2)
    with pytest.raises(ParityError, match='1 of 3'):  # below the limit: a box is missing
        check_predictions(Task(detections()[:1]), Predicts(shuffled), 'x.onnx', inputs)


def test_latency_of_a_prediction(tmp_path):
    conv = torch.nn.Conv2d(3, 4, 1)
    x = torch.zeros(1, 3, 4, 4)
    export_onnx(conv, x, tmp_path / 'x.onnx')
    inputs = Inputs(x, [BaseDataElement()])
    latency = compare_latency(Predicts(detections()), tmp_path / 'x.onnx', inputs, rounds=2)
    assert {name: len(value.rounds) for name, value in latency.items()} == {'PyTorch': 2, 'onnxruntime': 2}
    assert predict(Predicts(detections()), inputs)[0].scores.tolist() == pytest.approx([0.9, 0.8, 0.5])
    assert 'pred_instances' not in inputs.samples[0]
