"""Ending a run inside an epoch: mmengine looks between epochs only."""
from typing import Any, Iterator, Protocol

from mmengine.hooks import LoggerHook
from mmengine.runner import Runner


class Finishing(Protocol):
    """What says that a run is at its end."""

    finished: bool


def logger_is_due(runner: Runner, batch_idx: int) -> bool:
    """Tell whether mmengine's logger, which runs later, writes a line for this iteration."""
    loader = runner.train_dataloader
    return any(hook.every_n_inner_iters(batch_idx, hook.interval)
               or (hook.end_of_epoch(loader, batch_idx) and (not hook.ignore_last or len(loader) <= hook.interval))
               for hook in runner.hooks if isinstance(hook, LoggerHook))


class Stoppable:
    """A data loader whose epoch ends when the hook is finished; attributes are read from and set on the loader."""

    loader: Any
    hook: 'Finishing'

    def __init__(self, loader: Any, hook: 'Finishing') -> None:
        self.__dict__.update(loader=loader, hook=hook)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if self.hook.finished:
                return
            yield batch

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.loader, name, value)  # hooks that switch the pipeline restart workers by attributes
