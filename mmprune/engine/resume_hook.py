"""Resuming bit for bit: save and restore what mmengine's checkpoints leave out."""
from typing import Any, Dict, List, Optional

import torch
from mmengine import dist
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from ..models.pruning_algorithm import PruningAlgorithm
from ..random_state import random_state, set_random_state
from ..registry import HOOKS
from .plain_checkpoint import KEY, pack, unpack
from .resume_settings import settings_of, warn_of_other_settings
from .runner import unwrapped
from .seeded_data import EndlessBatches, SeededBatches, seed_loader


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Let a resumed run continue as if it had never stopped, from a checkpoint at any iteration.

    Every checkpoint also gets the random number generators, the data's seed, what each rank has accumulated since the
    last prune event, and the settings of the pruning: a resume with others is warned of. The augmentation of a sample
    depends on its place in the run (:mod:`.seeded_data`), and validation does not move the generators. What is not
    exact is listed in ``docs/interrupted_runs.md``.
    """

    priority = 'VERY_HIGH'  # before others draw random numbers

    def __init__(self) -> None:
        self._loaded: Dict[str, Any] = {}
        self._ranks: List[Dict[str, Any]] = []
        self._ranks_iter = -1
        self._before_val: Optional[Dict[str, Any]] = None
        self._batches: Optional[SeededBatches] = None
        self._pending: Optional[Dict[str, Any]] = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Remember the states that the checkpoint has; give mmengine the rest as it saved it."""
        unpack(checkpoint, getattr(getattr(runner.train_loop.dataloader, 'dataset', None), 'metainfo', None))
        self._loaded = checkpoint.get(KEY) or {}

    def before_train(self, runner: Runner) -> None:
        """Seed the data; after a resume, skip the batches already trained on and restore the state of this rank."""
        resumed = self._loaded if runner.iter > 0 else {}
        self._loaded, self._pending = {}, None
        warn_of_other_settings(runner, resumed.get('settings', {}))
        loader = runner.train_loop.dataloader
        if loader.batch_sampler is None:
            runner.logger.warning('the data loader makes no batches: its data is not seeded, and a resumed run differs')
        else:
            sampler: Any = getattr(loader.batch_sampler, 'sampler', None)
            if resumed.get('sampler_seed') is not None and hasattr(sampler, 'seed'):
                sampler.seed = resumed['sampler_seed']
            self._batches = seed_loader(loader, (int(runner.seed or 0), dist.get_rank()))
            if isinstance(runner.train_loop, EpochBasedTrainLoop):
                self._batches.skip = max(0, runner.iter - runner.epoch * len(loader))
            else:  # a loop that counts iterations has made its iterator already
                passes_over = not getattr(runner.train_loop, 'fast_forward_on_resume', False)  # of newer mmengines
                runner.train_loop.dataloader_iterator = EndlessBatches(loader, runner.iter if passes_over else 0)
        ranks = resumed.get('ranks', [])
        if runner.iter > 0 and len(ranks) != dist.get_world_size():
            runner.logger.warning(f'the checkpoint holds the random state of {len(ranks)} processes, this run has '
                                  f'{dist.get_world_size()}: it continues, but not bit for bit')
        elif runner.iter > 0:
            own = ranks[dist.get_rank()]
            self._pending = own['random']
            model = unwrapped(runner)
            if isinstance(model, PruningAlgorithm):
                model.mutator.load_rank_state(own)

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the seeded data the number of the epoch."""
        if self._batches is not None and isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._batches.epoch = runner.epoch

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Restore the generators before the first step after a resume."""
        if self._pending is not None:
            set_random_state(self._pending)
        self._pending = None

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Collect the ranks' states if a checkpoint is written after this iteration."""
        if any(isinstance(hook, CheckpointHook) and not hook.by_epoch and _due(hook, runner) for hook in runner.hooks):
            self._collect(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Collect the ranks' states if a checkpoint is written after this epoch."""
        if any(isinstance(hook, CheckpointHook) and hook.by_epoch for hook in runner.hooks):
            self._collect(runner, runner.iter)

    def before_val(self, runner: Runner) -> None:
        """Remember the generators, which validation may move."""
        self._before_val = random_state()

    def after_val(self, runner: Runner) -> None:
        """Restore the generators."""
        if self._before_val is not None:
            set_random_state(self._before_val)
        self._before_val = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: Dict[str, Any]) -> None:
        """Add the states to the checkpoint, and leave nothing in it but tensors and plain values."""
        ranks = self._ranks if self._ranks_iter == checkpoint['meta']['iter'] else [self._own(runner)]
        sampler = getattr(runner.train_dataloader.batch_sampler, 'sampler', None)
        checkpoint[KEY] = dict(ranks=ranks, sampler_seed=getattr(sampler, 'seed', None), settings=settings_of(runner))
        pack(checkpoint)

    def _own(self, runner: Runner) -> Dict[str, Any]:
        model = unwrapped(runner)
        accumulated = model.mutator.rank_state() if isinstance(model, PruningAlgorithm) else {}
        return dict(dict(random=self._before_val or random_state(), fisher=torch.zeros(0)), **accumulated)

    def _collect(self, runner: Runner, iteration: int) -> None:
        """Collect the states of all ranks; every rank calls this."""
        own = self._own(runner)
        gathered: List[Any] = [None] * dist.get_world_size()
        if dist.is_distributed():
            torch.distributed.all_gather_object(gathered, own)
        self._ranks, self._ranks_iter = gathered if dist.is_distributed() else [own], iteration


def _due(hook: CheckpointHook, runner: Runner) -> bool:
    return hook.every_n_train_iters(runner, hook.interval) or (hook.save_last and hook.is_last_train_iter(runner))
