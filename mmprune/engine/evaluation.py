"""What a model is worth by the evaluator of its config, without a Runner and its work dir."""
from numbers import Real
from typing import Any, Dict, Mapping, Optional

import torch
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner
from torch import nn

from ..units.modes import in_eval


class Evaluation:
    """Evaluates models on the data of a config, as many as come.

    Args:
        cfg (Config): Its ``val_dataloader`` and ``val_evaluator``, else those of the test, are used.
        stage (str): ``val`` or ``test``.
    """

    def __init__(self, cfg: Mapping[str, Any], stage: str) -> None:
        self.loader = Runner.build_dataloader(cfg[f'{stage}_dataloader'], seed=0)
        self.evaluator = Evaluator(cfg[f'{stage}_evaluator'])
        self.images = len(self.loader.dataset)  # type: ignore[arg-type]
        self.evaluator.dataset_meta = getattr(self.loader.dataset, 'metainfo', None)

    def __call__(self, model: nn.Module) -> Dict[str, float]:
        """Return metric -> value of a model, in eval mode; values that are no numbers are left out."""
        with in_eval(model), torch.no_grad():
            for batch in self.loader:
                samples = model.test_step(batch)  # type: ignore[operator]
                self.evaluator.process(data_samples=samples, data_batch=batch)
            metrics = self.evaluator.evaluate(self.images)
        return {name: float(value) for name, value in metrics.items() if isinstance(value, Real)}


def evaluation_of(cfg: Mapping[str, Any]) -> Optional[Evaluation]:
    """Return the evaluation of a config's validation, else of its test; None where it has neither.

    Raises:
        FileNotFoundError: Its data are not there.
    """
    for stage in ('val', 'test'):
        if cfg.get(f'{stage}_dataloader') and cfg.get(f'{stage}_evaluator'):
            return Evaluation(cfg, stage)
    return None
