"""Points: shares and per cent alike, and errors count the other way."""
import pytest

from mmprune.report.points import drop, in_points


@pytest.mark.parametrize(('value', 'dense', 'points'), [(0.521, 0.538, 52.1), (98.5, 98.7, 98.5), (0.9, 77.9, 0.9)])
def test_points(value, dense, points):
    assert in_points(value, dense) == pytest.approx(points)


@pytest.mark.parametrize(('metric', 'dense', 'now', 'lost'), [
    ('coco/bbox_mAP', 0.538, 0.521, 1.7), ('accuracy/top1', 98.7, 98.9, -0.2), ('NME', 0.05, 0.06, 1.0)])
def test_drop(metric, dense, now, lost):
    assert drop(metric, dense, now) == pytest.approx(lost)
