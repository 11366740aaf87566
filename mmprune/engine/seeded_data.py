"""Training data whose random augmentation is drawn from the run's seed and the sample's place in the run.

So batches can be skipped without loading them, and any number of workers gives the same data.
"""
from functools import lru_cache
from itertools import chain, islice
from typing import Any, Iterator, List, Protocol, Tuple, Type

import torch
from torch.utils.data import DataLoader

from ..arguments import UserError
from ..random_state import seeded


class SampleIndex(int):
    """Index of a sample, with the numbers that its random augmentation is drawn from."""

    entropy: Tuple[int, ...]

    @classmethod
    def at(cls, index: int, entropy: Tuple[int, ...]) -> 'SampleIndex':
        """Return an index with its numbers."""
        own = cls(index)
        own.entropy = entropy
        return own


@lru_cache(maxsize=None)
def _seeded_dataset(plain: Any) -> Type[Any]:
    """Return a subclass of a dataset class that draws a sample's augmentation from the numbers of its index."""

    class Seeded(plain):

        def __getitem__(self, index: Any) -> Any:
            if not isinstance(index, SampleIndex):
                return super().__getitem__(index)
            with seeded(index.entropy):
                return super().__getitem__(int(index))

        def __getitems__(self, indices: List[Any]) -> List[Any]:  # torch asks for several like this where it can
            return [self[index] for index in indices]

        def __reduce_ex__(self, protocol: Any) -> Tuple[Any, ...]:  # for workers that are not forked
            dataset = object.__new__(plain)
            dataset.__dict__.update(self.__dict__)
            return seed_samples, (dataset,)

    Seeded.__name__, Seeded.unseeded_class = plain.__name__, plain
    return Seeded


@lru_cache(maxsize=None)
def _seeded_batches(plain: Any) -> Type[Any]:
    """Return a subclass of a batch sampler class that numbers the samples and can skip batches."""

    class Seeded(plain):

        def __iter__(self) -> Iterator[List[SampleIndex]]:
            epoch, batches = self.epoch, super().__iter__()
            self.epoch += 1
            with seeded((self.seed[0], epoch)):  # a sampler without a seed of its own shuffles now
                first = list(islice(batches, 1))
            for number, batch in enumerate(chain(first, batches)):
                if self.skip > 0:
                    self.skip -= 1
                else:
                    yield [SampleIndex.at(index, (*self.seed, epoch, number, place))
                           for place, index in enumerate(batch)]

    Seeded.__name__, Seeded.unseeded_class = plain.__name__, plain
    return Seeded


class SeededBatches(Protocol):
    """A batch sampler after :func:`seed_loader`."""

    seed: Tuple[int, ...]  # the same for all samples of the process: the run's seed and the rank
    epoch: int  # number of the next pass over the data; counted, and to be set after a resume
    skip: int  # batches that are still to be left out


def seed_samples(dataset: Any) -> Any:
    """Let a dataset draw augmentations from the numbers of its indices; returns it."""
    if not hasattr(type(dataset), 'unseeded_class'):
        plain: Any = type(dataset)
        dataset.__class__ = _seeded_dataset(plain)
    return dataset


def seed_loader(loader: DataLoader, seed: Tuple[int, ...]) -> SeededBatches:
    """Let a data loader give the same data for any number of workers; returns its batch sampler.

    Loading does not move the process's random generators. The classes of the dataset and of the batch sampler are
    replaced in place, so that hooks which refer to them, or change the pipeline, still work.
    """
    seed_samples(loader.dataset)
    batches: Any = loader.batch_sampler
    if not hasattr(type(batches), 'unseeded_class'):
        plain: Any = type(batches)
        batches.__class__ = _seeded_batches(plain)
    batches.seed, batches.epoch, batches.skip = seed, 0, 0
    loader._iterator = None  # workers that have started have the classes of before
    loader.generator = torch.Generator()  # workers are seeded from it
    loader.generator.manual_seed(seed[0])
    return batches  # type: ignore[no-any-return]


def drawn(loader: DataLoader, samples: int, size: int, seed: int) -> List[Any]:
    """Return batches of samples that are chosen at random; the loader, and the process's generators, do not move.

    Args:
        loader (DataLoader): Its data set and its function that makes a batch are used.
        samples (int): How many at most; no sample comes twice.
        size (int): Samples of a batch.
        seed (int): By which they are chosen, and their augmentation is drawn.
    """
    with seeded((seed, 0)):
        order = torch.randperm(len(loader.dataset))[:samples].tolist()  # type: ignore[arg-type]
        return list(DataLoader(loader.dataset, size, sampler=order, collate_fn=loader.collate_fn))


class EndlessBatches:
    """The batches of a loader, pass after pass, for a loop that counts iterations.

    A resumed loop of mmengine first passes over the batches that were trained on; here that loads nothing.

    Args:
        loader (DataLoader): After :func:`seed_loader`.
        advances (int): Batches that a resumed loop will pass over.
    """

    def __init__(self, loader: DataLoader, advances: int = 0) -> None:
        if len(loader) == 0:
            raise UserError('the data loader has no batch: its dataset is smaller than one batch')
        self._loader, self._advances, self._passes = loader, advances, 0
        self._batches: Any = loader.batch_sampler
        self._batches.skip = advances
        self._iterator: Iterator[Any] = iter(())
        if hasattr(self._batches.sampler, '_indices_of_rank'):  # mmengine's endless sampler, from its beginning again
            self._batches.sampler.indices = self._batches.sampler._indices_of_rank()

    def __iter__(self) -> 'EndlessBatches':
        """Return itself."""
        return self

    def __next__(self) -> Any:
        """Return the next batch, or None for a batch that was trained on before the resume."""
        if self._advances > 0:
            self._advances -= 1
            return None
        for batch in self._iterator:
            return batch
        sampler = self._batches.sampler
        if hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(self._passes)
        self._passes += 1
        self._iterator = iter(self._loader)
        return next(self)

    def skip_iter(self, count: int) -> None:
        """Pass over some batches; newer mmengines pass over all at once."""
        self._advances -= count
