"""The repair of a prune run and its averaged copies (EMA), by images of its training data, alike on all ranks."""
import io
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Type, TypeVar, Union

import numpy as np
from mmengine import dist
from mmengine.runner import Runner
from torch import nn

from ..arguments import UserError, nearest, one_of, typed, whole_number
from ..models.pruning_algorithm import PruningAlgorithm
from ..pruning.rounds import rounds_for
from ..random_state import seeded
from ..repair.batches import BATCH, HELD_BACK, batches_of, rows_of
from ..repair.dense_copy import dense_copy
from ..repair.refit import HOWS, repair
from ..repair.result import NOTHING, Repair
from ..units.modes import in_eval
from ..units.mutator import ChannelMutator
from .distributed import broadcast_tensors
from .repair_images import on_images
from .runner import AveragedFollower, loss_of, training_batches

#: Images, which stay in memory, and rounds that a repair may take.
MOST_IMAGES, MOST_ROUNDS = 10_000, 1000
AUTO = 'auto'
#: What a repair is told in a config; rounds only where a schedule cuts all units at once.
KEYS = ('images', 'how', 'rounds')
Self = TypeVar('Self', bound='RunRepair')


class RunRepair:
    """Repairs the model of a run against what it was before a cut; a repair that is not better is undone.

    No layer gets a bias that the architecture does not have, so that checkpoints load into the plain architecture.

    Args:
        images (int): Training images, drawn by the run's seed; every fifth batch is held back to judge by.
        how (str): See :func:`~mmprune.repair.refit.repair`.
        rounds (int or str): In how many rounds of a cut and a repair a schedule makes one cut; ``auto`` takes at most
            8 % of the dense multiply-adds in each.
    """

    @typed
    def __init__(self, images: int = 512, how: str = 'full', rounds: Union[int, str] = 1) -> None:
        self.images = whole_number('repair: images', images, 2, most=MOST_IMAGES)
        self.how = one_of('repair: how', how, HOWS)
        if rounds != AUTO:
            whole_number('repair: rounds', rounds, most=MOST_ROUNDS, must=(
                f'it must be {AUTO!r} or a whole number from 1 to {MOST_ROUNDS}'))
        self.rounds = rounds

    @classmethod
    def of(cls: Type[Self], cfg: Optional[Mapping[str, Any]], owner: str, keys: Sequence[str] = KEYS) -> Optional[Self]:
        """Return the repair that a config gives to a hook, None where it gives none.

        Args:
            cfg (dict or None): Given as ``repair``.
            owner (str): The hook.
            keys (sequence[str]): What it may hold.

        Raises:
            UserError: It holds something else, or a wrong value.
        """
        if cfg is None:
            return None
        for name in cfg:
            if name not in keys:
                raise UserError(f'{owner}: repair has no {name!r}{nearest(name, keys)}; it takes {", ".join(keys)}')
        return cls(**cfg)

    def __repr__(self) -> str:
        """Return the arguments."""
        return ', '.join(f'{name}={getattr(self, name)!r}' for name in KEYS)

    def rounds_of(self, mutator: ChannelMutator, masks: Mapping[str, np.ndarray]) -> int:
        """Return in how many rounds the model is cut to the masks of a plan."""
        return rounds_for(mutator, masks) if isinstance(self.rounds, str) else self.rounds

    def twins(self, algorithm: PruningAlgorithm) -> List[nn.Module]:
        """Return dense copies of the model and its averages as they are: what a later repair compares with."""
        return [dense_copy(each.mutator) for each in _with_averages(algorithm)]

    def __call__(self, runner: Runner, algorithm: PruningAlgorithm, twins: Sequence[nn.Module],
                 by_loss: bool = False) -> None:
        """Repair model and averages, and log a line for each; an average of nothing takes what the model has.

        Every rank solves by the same images, and takes what rank 0 has found.

        Args:
            runner (Runner): Its training data is used.
            algorithm (PruningAlgorithm): Its model without wrapper.
            twins (list[nn.Module]): Of the model and its averages, :meth:`twins` before the cut.
            by_loss (bool): Judge by the run's loss on held-back images, not by how near the outputs are.
        """
        data = self._data(runner, algorithm)
        for each, twin in zip(_with_averages(algorithm), twins):
            with _quiet() if dist.get_rank() else nullcontext():
                lines = self._repaired(each, twin, data, by_loss)
            broadcast_tensors(each.architecture)
            for line in lines:
                runner.logger.info(line if each is algorithm else f'averaged copy: {line}')
        for follower in _averaged(algorithm):
            follower.begin(algorithm)

    def _data(self, runner: Runner, algorithm: PruningAlgorithm) -> '_Data':
        there = len(runner.train_dataloader.dataset)
        if there < self.images:
            runner.logger.warning(f'repair: images is {self.images}, and the training data has {there}: all are taken')
        size = max(1, min(BATCH, runner.train_dataloader.batch_size or 1, min(there, self.images) // HELD_BACK))
        drawn = training_batches(runner, self.images, size)
        preprocessor, demo_input = algorithm.architecture.data_preprocessor, algorithm.mutator.demo_input
        inputs = [on_images(preprocessor, demo_input, batch) for batch in drawn]
        held = batches_of(inputs)[1]
        return _Data(inputs, [drawn[number] for number in held], sum(rows_of(inputs[number]) for number in held))

    def _repaired(self, algorithm: PruningAlgorithm, twin: nn.Module, data: '_Data', by_loss: bool) -> List[str]:
        """Repair one model, undo it where it is not better, and return what to log."""
        model = algorithm.architecture
        before = [(tensor, tensor.detach().clone()) for tensor in [*model.parameters(), *model.buffers()]]
        losses = (_loss(model, data.held), 0.0) if by_loss else (0.0, 0.0)
        done = repair(algorithm.mutator, twin, data.inputs, self.how, may_add_bias=False)
        if by_loss:
            losses = losses[0], _loss(model, data.held)
        old, new = losses if by_loss else (done.before, done.after)
        better = new < old
        if not better:
            for tensor, value in before:
                tensor.detach().copy_(value)
        return _lines(done, data, losses if by_loss else None, better)


class _Data(NamedTuple):
    inputs: List[Any]  #: demo inputs of all images
    held: List[Any]  #: the batches that are held back, as the loader gives them
    held_images: int  #: how many these are


class EndRepair(RunRepair):
    """Repairs once, at the end of a run that trains while it cuts channel by channel.

    The twin is the network as it was just before the run's first cut: the last moment at which it was whole. Its
    weights have moved since, so the run's loss on held-back images says whether the repair stays. Checkpoints hold the
    twin until then. The arguments are those of :class:`RunRepair`, without rounds.

    Attributes:
        twin (nn.Module or None): From the first cut to the repair.
    """

    twin: Optional[nn.Module] = None

    def watch(self, algorithm: Any) -> None:
        """Let a :class:`~mmprune.group_fisher.algorithm.GroupFisherAlgorithm` keep the twin at its first cut."""
        def keep() -> None:
            if self.twin is None:
                self.twin = dense_copy(algorithm.mutator)
            algorithm.before_cut = None

        algorithm.before_cut = keep

    def state(self) -> Dict[str, Any]:
        """Return what a checkpoint keeps of the twin."""
        return {} if self.twin is None else {name: tensor.cpu() for name, tensor in self.twin.state_dict().items()}

    def load_state(self, algorithm: PruningAlgorithm, state: Mapping[str, Any]) -> None:
        """Take over the twin of the run that is resumed; the model is as it was built, not cut yet."""
        if state:
            self.twin = dense_copy(algorithm.mutator)
            self.twin.load_state_dict(state)

    def finish(self, runner: Runner, algorithm: Any) -> None:
        """Repair, and let go of the twin."""
        algorithm.before_cut = None
        if self.twin is not None:
            self(runner, algorithm, [self.twin] * len(_with_averages(algorithm)), by_loss=True)
        self.twin = None


def _with_averages(algorithm: PruningAlgorithm) -> List[Any]:
    """Return the algorithm, and its averaged copies (EMA) that have averaged something."""
    return [algorithm, *(follower.averaged.module for follower in _averaged(algorithm) if follower.has_begun)]


def _averaged(algorithm: PruningAlgorithm) -> List[AveragedFollower]:
    return [follower for follower in algorithm.followers if isinstance(follower, AveragedFollower)]


def _loss(model: nn.Module, batches: Sequence[Any]) -> float:
    """Return the mean loss of a model on some batches, in eval mode."""
    with in_eval(model), seeded([0]):
        return sum(float(loss_of(model, batch)) for batch in batches) / len(batches)


@contextmanager
def _quiet() -> Iterator[None]:
    """Show no progress bar."""
    with redirect_stdout(io.StringIO()):
        yield


def _lines(done: Repair, data: _Data, losses: Optional[Tuple[float, float]], better: bool) -> List[str]:
    """Return what to log of a repair."""
    solved = sum(layer.applied for layer in done.layers.values())
    dropped = sum(not layer.applied and layer.before > NOTHING for layer in done.layers.values())
    count = sum(map(rows_of, data.inputs))
    loss = '' if losses is None else f', loss there {losses[0]:.4f} and {losses[1]:.4f}'
    undone = '' if better else f'; undone, since {"the loss" if losses else "the error"} is not less'
    return [f'repair by {count} images: {solved} of {len(done.layers)} layers solved again, {dropped} dropped (worse '
            f'on held-back images){", norms measured anew" if done.norms else ""}; error of the outputs on '
            f'{data.held_images} held-back images {done.before:.4g} after the cut, {done.after:.4g} after the repair'
            f'{loss}; {done.seconds:.0f} s{undone}',
            *(f'repair: {name} is left as it is; {reason}' for name, reason in done.left.items())]
