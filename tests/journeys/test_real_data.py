"""Real weights on real images, through the tools a user types."""
import json
import os
import subprocess
import sys

import pytest
from paths import ROOT


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, '-W', 'ignore', *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.data
def test_real_mobilenet_v2_scores_what_torchvision_scores(data_root, tmp_path):
    """torchvision's weights score 82.4 % on these images with torchvision's own model (centre crop of 224)."""
    source = data_root / 'mobilenet_v2-b0353104.pth'
    assert source.is_file(), 'MMPRUNE_DATA has no mobilenet_v2-b0353104.pth'
    checkpoint = tmp_path / 'mobilenet_v2.pth'
    run('tools/model_converters/from_torchvision.py', str(source), str(checkpoint))
    metrics = tmp_path / 'metrics.json'
    run('tools/test.py', 'configs/mmcls/imagenet_sample/mobilenet-v2_imagenet-sample.py', str(checkpoint), '--work-dir',
        str(tmp_path), '--json', str(metrics), '--cfg-options', 'test_dataloader.dataset.indices=None')
    assert json.loads(metrics.read_text())['accuracy/top1'] == pytest.approx(82.4, abs=0.3)
    assert os.path.getsize(checkpoint) > 13e6
