"""A hook and a wrapper for the distributed tests, imported by the config of the run."""
import os

import torch
from mmengine import dist
from mmengine.hooks import Hook

from mmprune.distributed import GroupFisherDDP
from mmprune.hooks import unwrapped
from mmprune.registry import HOOKS, MODEL_WRAPPERS


@HOOKS.register_module()
class RankProbe(Hook):
    """Write every rank's state at the end, and count its collectives of scores."""

    def after_train(self, runner):
        model = unwrapped(runner)
        fields = dict(state=model.state_dict(), iterations=getattr(model, 'iterations', runner.iter),
                      losses=runner.message_hub.get_scalar('train/loss').data[0].tolist())
        torch.save(fields, os.path.join(runner.work_dir, f'rank{dist.get_rank()}.pt'))


@MODEL_WRAPPERS.register_module()
class WithoutSync(GroupFisherDDP):
    """What a wrapper that bypasses DDP does: every rank follows its own gradients."""

    def train_step(self, data, optim_wrapper):
        with self.no_sync():
            return super().train_step(data, optim_wrapper)
