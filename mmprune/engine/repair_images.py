"""The images of a repair, from the training data of a config: its pipeline, its preprocessor, no labels."""
import copy
from typing import Any, List, Mapping

import torch
from mmengine.runner import Runner
from torch import Tensor, nn

from ..arguments import UserError
from ..repair.batches import BATCH, HELD_BACK
from .seeded_data import drawn


def repair_images(cfg: Mapping[str, Any], model: nn.Module, demo_input: Any, images: int, seed: int = 0) -> List[Any]:
    """Return batches for :func:`~mmprune.repair.refit.repair`.

    Args:
        cfg (Config): Its ``train_dataloader`` is used; its sampler and its batch augmentation are not.
        model (nn.Module): Its data preprocessor makes of a batch what the model takes, on its device.
        demo_input (DemoInput): How the model is run, as when its channels were traced.
        images (int): How many at most, chosen at random among all.
        seed (int): By which images and augmentation are drawn.

    Raises:
        UserError: The config has no training data, or less than two images.
    """
    if not cfg.get('train_dataloader'):
        raise UserError('the config has no train_dataloader, whose images a repair is made of: give the config of the '
                        'finetuning or of the prune run')
    loader = Runner.build_dataloader(cfg['train_dataloader'], seed=seed)
    count = min(images, len(loader.dataset))  # type: ignore[arg-type]
    if count < 2:
        raise UserError(f'train_dataloader of the config has {count} images; a repair takes two or more, of which it '
                        'holds some back to see what it is worth')
    size = min(cfg['train_dataloader'].get('batch_size', BATCH), BATCH, max(1, count // HELD_BACK))
    return [on_images(model.data_preprocessor, demo_input, batch) for batch in drawn(loader, count, size, seed)]


def on_images(preprocessor: Any, demo_input: Any, batch: Any) -> Any:
    """Return a demo input that runs a model on the images of a batch.

    Args:
        preprocessor (nn.Module): The model's data preprocessor, as in training; it is not changed.
        demo_input (DemoInput): How the model is run.
        batch (dict or tuple): Of a data loader; it is not changed.

    Raises:
        UserError: The images are no tensor, or the demo input takes none.
    """
    own = copy.deepcopy(preprocessor)  # some keep a size from batch to batch
    if getattr(own, 'batch_augments', None) is not None:
        own.batch_augments = None
    with torch.no_grad():
        data = own(copy.deepcopy(batch), True)  # pads as in training
    images = data.get('inputs') if isinstance(data, Mapping) else data[0]
    if not isinstance(images, Tensor) or not hasattr(demo_input, 'with_images'):
        raise UserError(f'a repair runs the model on tensors of images; here they are {type(images).__name__}, and the '
                        f'demo input is {type(demo_input).__name__}, which has '
                        f'{"" if hasattr(demo_input, "with_images") else "no "}with_images')
    return demo_input.with_images(images.cpu())
