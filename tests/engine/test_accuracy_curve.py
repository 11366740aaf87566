"""The curve: a point for each share, each smaller, evaluated by the config's own evaluator, nothing trained."""
import json

import pytest
from schedule_runs import make_folder, run, write_config  # noqa: F401 (a fixture)

from mmprune.arguments import UserError
from mmprune.engine.evaluation import evaluation_of
from mmprune.engine.schedules.accuracy_curve import AccuracyCurveHook

SHARES = [0.8, 0.6]
CURVE = dict(type='mmprune.AccuracyCurveHook', criterion='L2', shares=SHARES)


def test_points_of_a_curve(folder, tmp_path):
    runner = run(write_config(folder, 'curve', dict(CURVE, repair=dict(images=40))), tmp_path)
    points = json.loads((tmp_path / 'curve.json').read_text())
    assert [point['asked'] for point in points] == [1.0, *SHARES]
    assert points[0]['flops'] == points[0]['params'] == 1.0
    for point in points[1:]:
        assert point['asked'] - 0.1 < point['flops'] <= point['asked']
        assert 'ms' not in point
    assert runner.iter == 0, 'a curve trains nothing'
    assert points[-1]['metrics'] == evaluation_of(runner.cfg)(runner.model.architecture)


@pytest.mark.parametrize('shares', [[], [0.5, 0.8], [0.8, 0.8], [1.5, 0.5]])
def test_shares_that_do_not_fall_are_refused(shares):
    with pytest.raises(UserError, match='shares'):
        AccuracyCurveHook('L2', shares)
