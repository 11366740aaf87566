"""Fixtures of all tests: the same seed, one thread, nothing left behind, real data where there is any."""
import functools
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from leaks import no_leaks
from mmengine.config import utils as config_utils
from yapf.yapflib import yapf_api

#: Files that take a minute and more, the longest first.
LONG = ('test_resume', 'test_detection_runs', 'test_segmentation_journey', 'test_mmdeploy_detection', 'test_mmdeploy',
        'test_distributed', 'test_schedules_distributed', 'test_real_data', 'test_slimming_journey', 'test_configs',
        'test_distributed_cost')


def pytest_collection_modifyitems(config, items):
    """Begin with the long files where files are spread over processes, so that nothing waits for them at the end."""
    if hasattr(config, 'workerinput'):
        places = {name: place for place, name in enumerate(LONG)}
        items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


@pytest.fixture(autouse=True, scope='session')
def configs_are_read_and_formatted_once():
    """Let mmengine read a metafile once, not for each config, and format a run's config once, not for each checkpoint.

    Both take longer than what is tested.
    """
    format_code, formatted = yapf_api.FormatCode, {}

    def format_once(text, **options):
        key = text, repr(options)
        if key not in formatted:
            formatted[key] = format_code(text, **options)
        return formatted[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yapf_api, 'FormatCode', format_once)
        patch.setattr(config_utils, 'load', functools.lru_cache(None)(config_utils.load))
        yield


@pytest.fixture(autouse=True)
def seed():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def leaves_nothing_behind():
    with no_leaks():
        yield


@pytest.fixture
def data_root():
    """Folder with the real data; a test without it is skipped, or fails where MMPRUNE_REQUIRE_DATA is set."""
    folder = os.environ.get('MMPRUNE_DATA')
    missing = None
    if not folder:
        missing = 'needs the real data: MMPRUNE_DATA does not name a folder'
    elif not Path(folder).is_dir():
        missing = f'needs the real data: MMPRUNE_DATA names {folder!r}, which is no folder'
    if missing:
        if os.environ.get('MMPRUNE_REQUIRE_DATA'):
            pytest.fail(missing)
        pytest.skip(missing)
    return Path(folder)
