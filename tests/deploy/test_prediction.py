"""A file whose predictions differ is refused, with what differs; what rounding alone decides is not."""
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import BaseDataElement, InstanceData

from mmprune.deploy.box_match import overlaps
from mmprune.deploy.onnx_export import export_onnx
from mmprune.deploy.prediction import (
    Inputs,
    ParityError,
    check_predictions,
    compare_latency,
    compare_predictions,
    predict,
    summary,
)

BOXES = [[0, 0, 10, 10], [50, 50, 100, 80], [20, 20, 30, 40]]


def detections(boxes=BOXES, scores=(0.9, 0.8, 0.5), labels=(1, 1, 2)):
    return InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float).reshape(-1, 4), scores=torch.tensor(scores),
                        labels=torch.tensor(labels, dtype=torch.long))


def keypoints(x=7.0):
    return InstanceData(keypoints=np.array([[[x, 100.0], [3.0, 4.0]]]), keypoint_scores=np.array([[0.5, 0.25]]))


def test_images_count_together():
    wanted, found = [detections(), detections()], [detections(), detections(labels=(1, 1, 3))]
    agreement = compare_predictions(wanted, found)
    assert agreement[:4] == (0, 5, 6, 0)
    assert agreement.text.startswith('1 box is in PyTorch alone')
    assert compare_predictions([keypoints()], [keypoints()])[:3] == (0, 2, 2)


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


INPUTS = Inputs(torch.zeros(1, 3, 4, 4), [BaseDataElement()])


@pytest.mark.parametrize(('wanted', 'found', 'message'), [
    (detections(), detections(labels=(1, 1, 3)),
     r'2 of 3 predictions .* within 0\.0003: 1 box is in PyTorch alone and 1 in the file alone, such as class 2 .*'
     r'must not be deployed.*export_onnx'),
    (detections([], (), ()), detections([], (), ()), 'finds nothing on this image.*name another image'),
    (detections(), detections([], (), ()), '0 of 3 predictions'),
    (detections([], (), ()), detections(), '0 of 3 predictions')])
def test_parity_error(wanted, found, message):
    with pytest.raises(ParityError, match=message):
        check_predictions(Task(found), Predicts(wanted), 'x.onnx', INPUTS)
    if len(wanted):
        assert check_predictions(Task(wanted), Predicts(wanted), 'x.onnx', INPUTS)[:4] == (0, 3, 3, 0)


def test_a_file_may_have_a_limit_that_the_model_has_not():
    shuffled = detections()[[2, 0, 1]]
    assert check_predictions(Task(detections()[:2]), Predicts(shuffled), 'x.onnx', INPUTS)[:4] == (0, 2, 2, 0)
    with pytest.raises(ParityError, match='1 of 3'):  # below the limit: a box is missing
        check_predictions(Task(detections()[:1]), Predicts(shuffled), 'x.onnx', INPUTS)


class Detects(torch.nn.Module):
    """Predicts its boxes after a NMS, as its ``test_cfg`` says."""

    def __init__(self, boxes, overlap):
        super().__init__()
        self.boxes = boxes
        self.test_cfg = ConfigDict(score_thr=0.1, nms=dict(type='nms', iou_threshold=overlap), max_per_img=5)

    def forward(self, x, samples, mode):
        boxes = self.boxes
        twins = float(overlaps(boxes.bboxes[:1], boxes.bboxes[1:2])) > self.test_cfg.nms.iou_threshold
        samples[0].pred_instances = boxes[[0, 2]] if twins else boxes
        return samples


def test_a_box_at_the_threshold_of_the_nms_may_be_in_the_file_alone():
    boxes = detections([[0, 0, 10, 10], [0, 5, 10, 15], [20, 20, 30, 40]], labels=(1, 1, 1))  # overlap by 1 / 3
    model = Detects(boxes, 0.3333)
    assert len(predict(model, INPUTS)[0]) == 2
    assert check_predictions(Task(boxes), model, 'x.onnx', INPUTS)[:4] == (0, 2, 3, 1)
    assert model.test_cfg.nms.iou_threshold == 0.3333  # as before
    assert summary(check_predictions(Task(boxes), model, 'x.onnx', INPUTS)) == (
        '2 of 3 predictions are equal within 0.0003; a limit, a threshold or a tie decides on 1 more')
    assert summary(check_predictions(Task(boxes[1:]), Predicts(boxes[1:]), 'x.onnx', INPUTS)) == (
        '2 of 2 predictions are equal within 0.0003')
    with pytest.raises(ParityError, match='2 of 3 predictions'):
        check_predictions(Task(boxes), Detects(boxes, 0.32), 'x.onnx', INPUTS)


def test_latency_of_a_prediction(tmp_path):
    conv = torch.nn.Conv2d(3, 4, 1)
    x = torch.zeros(1, 3, 4, 4)
    export_onnx(conv, x, tmp_path / 'x.onnx')
    inputs = Inputs(x, [BaseDataElement()])
    timing = compare_latency(Predicts(detections()), tmp_path / 'x.onnx', inputs, rounds=2)
    assert {name: len(value.runs) for name, value in timing.latency.items()} == {'PyTorch': 3, 'onnxruntime': 3}
    assert predict(Predicts(detections()), inputs)[0].scores.tolist() == pytest.approx([0.9, 0.8, 0.5])
    assert 'pred_instances' not in inputs.samples[0]
