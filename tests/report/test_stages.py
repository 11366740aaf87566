"""The table of stages and the picture of a structure."""
import json
import subprocess
import sys

import numpy as np
import pytest
from paths import ROOT

from mmprune.report.figure import PictureError, row_labels
from mmprune.report.stages import StageResult, format_stages
from mmprune.report.structure_picture import draw_structure, original_widths

RESNET50 = ROOT / 'configs/mmcls/group_fisher/resnet50/group_fisher_act_resnet50_8xb32_in1k.json'
STAGES = [StageResult('dense', 99.244, 27_400_000, 700_000, 0.4),
          StageResult('pruned', None, 13_700_000, 175_000, 0.2)]
STRUCTURE = {'backbone.a_(0, 10)_10': 10, 'backbone.b_(0, 20)_20': 5, 'backbone.c_(0, 40)_40': 1}


def pixels(path, colour):
    from matplotlib.image import imread

    picture = np.rint(imread(path)[..., :3] * 255).astype(int)
    return (np.abs(picture - np.array([int(colour[i:i + 2], 16) for i in (1, 3, 5)])).max(axis=2) <= 2)


def test_table_as_text():
    assert format_stages(STAGES).split('\n') == [
        'stage   accuracy (%)     MACs (M)   params (M)  latency (ms)',
        '------------------------------------------------------------',
        'dense          99.24        27.40        0.700         0.400',
        'pruned             -  13.70 (50%)  0.175 (25%)   0.200 (50%)']


def test_table_as_markdown():
    assert format_stages(STAGES, markdown=True).split('\n') == [
        '| stage | accuracy (%) | MACs (M) | params (M) | latency (ms) |',
        '| --- | ---: | ---: | ---: | ---: |',
        '| dense | 99.24 | 27.40 | 0.700 | 0.400 |',
        '| pruned | - | 13.70 (50%) | 0.175 (25%) | 0.200 (50%) |']


def test_table_without_the_dense_figures_has_no_shares():
    assert '%)' not in format_stages([StageResult('dense'), STAGES[1]]).split('\n')[-1]


def test_table_needs_a_stage():
    with pytest.raises(ValueError, match='at least one stage'):
        format_stages([])


def test_original_widths_are_in_the_names():
    assert original_widths({'a.b_(0, 64)_64': 3, 'c_(8, 24)_16': 2, 'd_(0, 116)_58#2': 1}) == {
        'a.b_(0, 64)_64': 64, 'c_(8, 24)_16': 16, 'd_(0, 116)_58#2': 58}
    with pytest.raises(ValueError, match="'conv1' is not the name of a unit"):
        original_widths({'conv1': 3})


def test_labels_leave_out_what_all_share_and_tell_units_of_one_layer_apart():
    assert row_labels(list(STRUCTURE)) == ['a', 'b', 'c']
    assert row_labels(['net.a_(0, 8)_8', 'net.a_(8, 16)_8', 'net.b_(0, 4)_2', 'net.b_(0, 4)_2#2']) == [
        'a 0-7', 'a 8-15', 'b 0-3', 'b 0-3#2']
    assert row_labels(['a_(0, 8)_8']) == ['a']
    assert row_labels(['stem_(0, 8)_8', 'stem.a_(0, 8)_8']) == ['stem', 'stem.a']


def test_bars_have_the_length_of_what_stays(tmp_path):
    path = tmp_path / 'sub' / 'structure.png'
    draw_structure(STRUCTURE, path)
    assert [file.name for file in path.parent.iterdir()] == ['structure.png']
    blue, grey = pixels(path, '#2563ab'), pixels(path, '#dfe3e8')
    share = slice(blue.shape[1] * 11 // 20, None)  # the right panel
    rows = [row for row in range(blue.shape[0]) if (blue | grey)[row, share].sum() > 300]
    starts = [row for row in rows if row - 1 not in rows]
    assert len(starts) == 3
    found = []
    for start in starts:
        row = start + 8
        found.append(blue[row, share].sum() / (blue | grey)[row, share].sum())
    assert found == pytest.approx([1, 5 / 20, 1 / 40], abs=0.01)


def test_widths_beyond_the_dense_ones_fit_in(tmp_path):
    draw_structure({'unit': 16}, tmp_path / 'padded.png', widths={'unit': 10})
    assert pixels(tmp_path / 'padded.png', '#2563ab')[:, -10:].sum() == 0


@pytest.mark.parametrize(('structure', 'message'), [({}, 'no unit'), ({'conv1': 3}, "'conv1' is not the name")])
def test_what_cannot_be_drawn(structure, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        draw_structure(structure, tmp_path / 'x.png')
    assert not list(tmp_path.iterdir())


def test_structure_in_an_unknown_format(tmp_path):
    with pytest.raises(PictureError, match='structure.foo'):
        draw_structure(STRUCTURE, tmp_path / 'structure.foo')
    assert not list(tmp_path.iterdir())


def test_tool_draws_a_published_structure(tmp_path):
    out = tmp_path / 'resnet50.png'
    tool = [sys.executable, '-W', 'ignore', str(ROOT / 'tools/pruning/draw_structure.py')]
    done = subprocess.run([*tool, str(RESNET50), '--out', str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(RESNET50.read_text())) == 36
    assert pixels(out, '#2563ab').sum() > 100_000
    done = subprocess.run([*tool, str(tmp_path / 'none.json'), '--out', str(out)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith('error: fix_subnet: there is no file')
