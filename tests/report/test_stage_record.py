"""The plan and the records of a folder: written, read again, and refused where they are something else."""
import json

import pytest

from mmprune.arguments import UserError
from mmprune.report.stage_record import (
    CompressPlan,
    StageRecord,
    read_plan,
    read_record,
    read_records,
    write_plan,
    write_record,
)

PLAN = CompressPlan('dense.py', 'dense.pth', {'latency': 0.5}, 'accuracy/top1', [1, 3, 32, 32], {'epochs': 2},
                    {'torch': '2'}, 'a machine')
RECORD = StageRecord('prune', [['mmprune', 'train', 'configs/prune.py']], 12.5, '2026-11-27T20:00:00',
                     {'reached': {'flops': 0.5}})


def test_what_is_written_is_read(tmp_path):
    write_plan(PLAN, tmp_path)
    write_record(RECORD, tmp_path)
    assert read_plan(tmp_path) == PLAN
    assert read_record('prune', tmp_path) == RECORD
    assert read_record('dense', tmp_path) is None
    assert read_records(tmp_path) == {'prune': RECORD}


def test_a_folder_without_a_plan_is_named(tmp_path):
    with pytest.raises(UserError, match=r'no folder of `mmprune compress`'):
        read_plan(tmp_path)


@pytest.mark.parametrize('values', [[], {'stage': 'prune'}, {'config': 1, 'more': 2}])
def test_other_json_is_refused(tmp_path, values):
    (tmp_path / 'compress.json').write_text(json.dumps(values))
    with pytest.raises(UserError, match='not written by this version'):
        read_plan(tmp_path)


def test_another_format_is_refused(tmp_path):
    write_plan(PLAN, tmp_path)
    path = tmp_path / 'compress.json'
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(UserError, match='has the format 2'):
        read_plan(tmp_path)
