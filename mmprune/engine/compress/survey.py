"""What there is to know of a dense model and its data before anything runs: sizes, and how long a forward takes."""
import io
import statistics
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence

import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from ...arguments import UserError
from ...files import read_json, write_json
from ...graph.demo_input import build_demo_input
from ...graph.detector_inputs import demo_input_of
from ...models.architecture import build_architecture
from ...models.from_config import dense_config
from ...units.counted_macs import macs_by_kind

#: In the folder of the road: what is known of the dense model.
SURVEY = 'survey.json'
#: Forward passes that are timed.
RUNS = 3


class Survey(NamedTuple):
    """Of the dense model and its data.

    Attributes:
        train_images, test_images (int): Of their data sets.
        batches (int): Of a training epoch.
        channels (int): Outputs of all layers with a weight.
        forward_s (float): Seconds of a forward pass of one image, on the CPU with torch's threads.
        image (str, optional): File of the first test image, where there is one.
        linear_share (float): Of the multiply-adds of a forward pass, those of linear layers and products with weights.
    """

    train_images: int
    test_images: int
    batches: int
    channels: int
    forward_s: float
    image: Optional[str]
    linear_share: float = 0.0  # of a road that an earlier version began


def surveyed(cfg: Mapping[str, Any], input_shape: Sequence[int], folder: Optional[Path]) -> Survey:
    """Return the survey that a folder remembers, so that a road that goes on is as it began; else look, and remember.

    Args:
        cfg (Config): Of the dense model, with its data.
        input_shape (tuple[int]): ``(1, C, H, W)``.
        folder (Path, optional): Of the road; None to remember nothing.
    """
    path = None if folder is None else folder / SURVEY
    if path is not None and path.exists():
        return Survey(**read_json(path, 'the survey of the road'))
    found = survey(cfg, input_shape)
    if path is not None:
        write_json(found._asdict(), path)
    return found


def survey(cfg: Mapping[str, Any], input_shape: Sequence[int]) -> Survey:
    """Build the model and the data sets of a config, and look at them.

    Raises:
        UserError: The config lacks the data of a training, or those of a test.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    images: Dict[str, int] = {}
    for stage in ('train', 'test'):
        if not cfg.get(f'{stage}_dataloader'):
            raise UserError(f'the config has no {stage}_dataloader: compress takes the config that the model was '
                            'trained with, with its data')
        with redirect_stdout(io.StringIO()):  # readers of annotations tell of their progress
            loader = Runner.build_dataloader(cfg[f'{stage}_dataloader'], seed=0)
        images[stage] = len(loader.dataset)  # type: ignore[arg-type]
        images[f'{stage} batches'] = len(loader)
        image = _file_of(loader.dataset)
    architecture = dense_config(cfg)[0]
    model, _ = build_architecture(architecture, None)
    model.eval()
    demo = build_demo_input(demo_input_of(architecture, input_shape))
    seconds = []
    macs = macs_by_kind(model, demo)
    with torch.no_grad():
        for _ in range(RUNS):
            began = time.perf_counter()
            demo(model)
            seconds.append(time.perf_counter() - began)
    channels = sum(parameter.shape[0] for parameter in model.parameters() if parameter.dim() > 1)
    return Survey(images['train'], images['test'], images['train batches'], channels, statistics.median(seconds),
                  image, macs.matrices / max(1, sum(macs)))


def _file_of(dataset: Any) -> Optional[str]:
    """Return the file of the first image of a data set; None if its images are no files."""
    try:
        path = dataset.get_data_info(0).get('img_path')
    except (AttributeError, KeyError, IndexError):
        return None
    return str(path) if path and Path(path).is_file() else None
