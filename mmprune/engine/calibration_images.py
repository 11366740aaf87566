"""The images that the ranges of INT8 come from: those of the training, as the deployed file gets its images."""
from typing import Any, Iterator, List, Sequence

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor, nn

from ..arguments import UserError
from .deployed_evaluation import fitted, innermost
from .seeded_data import drawn


class CalibrationImages:
    """Training images through the pipeline of the test, each a batch of its own, preprocessed when it is asked for.

    Augmented images have other ranges than those that the deployed file gets. The training's own pipeline is used only
    where the config has no other.

    Args:
        cfg (Config): Its ``train_dataloader`` is used, and the pipeline of its test or validation.
        preprocessor (nn.Module): The model's data preprocessor.
        shape (list): The file's input ``[N, C, H, W]``; what is no number is free.
        task (str): Of the deploy config.
        images (int): How many at most, chosen at random among all.
        seed (int): By which they are chosen.

    Raises:
        UserError: The config has no training data.
        FileNotFoundError: The data are not there.
    """

    def __init__(self, cfg: Config, preprocessor: nn.Module, shape: Sequence[Any], task: str, images: int,
                 seed: int = 0) -> None:
        if not cfg.get('train_dataloader'):
            raise UserError('the config has no train_dataloader, whose images the ranges of INT8 come from')
        cfg = cfg.deepcopy()
        stages = [stage for stage in ('test', 'val') if cfg.get(f'{stage}_dataloader')]
        pipeline = next((innermost(cfg[f'{stage}_dataloader'].dataset).get('pipeline') for stage in stages), None)
        loader = cfg.train_dataloader
        if pipeline:
            loader.dataset = innermost(loader.dataset)
            loader.dataset.pipeline = pipeline
        #: which pipeline it is
        self.pipeline = f'the pipeline of the {stages[0]}' if pipeline else 'the pipeline of the training'
        loader.update(num_workers=0, persistent_workers=False, batch_size=1)
        cfg = fitted(cfg, 'train', [1, *shape[1:]], task)
        self.preprocessor = preprocessor
        self._batches = drawn(Runner.build_dataloader(cfg.train_dataloader, seed=seed), images, 1, seed)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield ``Tensor[1, C, H, W]`` of each image."""
        for batch in self._batches:
            with torch.no_grad():
                yield self.preprocessor(batch, False)['inputs']

    def first(self, count: int) -> List[Tensor]:
        """Return the first images."""
        return [image for _, image in zip(range(count), self)]
