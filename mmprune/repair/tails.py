"""A model that is run again and again on the same batches, each time from the first module that has changed."""
import math
from typing import Any, Callable, Collection, Dict, Iterator, List, Optional, Sequence, Set

from torch import Tensor, nn

from ..graph.watching import watched
from .batches import rows_of
from .chain import Chain, find_chain, replaced
from .survey import Survey

#: Bytes of what modules return for all batches that are kept.
KEPT = 1e9


class Tails:
    """Runs a model on batches; where it is a chain of modules, what they have returned is kept.

    Args:
        model (nn.Module): The model, in eval mode.
        batches (sequence): Batches.
        run (Callable): ``run(batch)`` runs the model on a batch, and returns what the model returns.
        few (optional): A batch of few images, on which the model is surveyed; without one, all is run each time.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Any], run: Callable[[Any], Any], few: Any = None) -> None:
        self.batches, self._run = batches, run
        self._modules = dict(model.named_modules())
        self._chain: Optional[Chain] = None
        self._kept: List[Dict[str, Tensor]] = [{} for _ in batches]
        self._stored: Collection[str] = ()
        if few is not None:
            survey = Survey(model, lambda _: run(few))
            self._starts = {name: calls[0].start for name, calls in survey.by_name().items()}
            self._chain = find_chain(survey, [model], lambda _: run(few))
            self._stored = () if self._chain is None else worth_it(self._chain, sum(map(rows_of, batches)))

    def first(self) -> Iterator[Any]:
        """Run the whole model on one batch after the other, and yield what it returns."""
        modules = [(name, self._modules[name]) for name in self._stored]
        for batch, kept in zip(self.batches, self._kept):
            def keep(name: str, module: nn.Module, args: Any, kwargs: Any, out: Tensor,
                     kept: Dict[str, Tensor] = kept) -> None:
                kept[name] = out.clone()

            with watched(modules, after=keep):
                out = self._run(batch)
            yield out

    def outputs(self, number: int, changed: Collection[str]) -> Any:
        """Return what the model returns for a batch, of which modules up to the first changed one are not run.

        Args:
            number (int): Number of the batch.
            changed (collection[str]): Modules that compute something else than when :meth:`first` was called.
        """
        before = self._before(changed)
        if self._chain is None or not before:
            return self._run(self.batches[number])
        shapes = {name: self._chain.shapes[0][name] for name in before}
        outputs = {name: self._kept[number][name].clone() for name in before
                   if name == before[-1] or name in self._chain.kept}
        with replaced(self._modules, shapes, outputs):
            return self._run(self.batches[number])

    def _before(self, changed: Collection[str]) -> Sequence[str]:
        """Return the modules of the chain up to the last one that is stored and ends before any changed one begins."""
        if self._chain is None:
            return ()
        links = self._chain.links
        count = len(links)
        for name in changed:
            inside = [place for place, link in enumerate(links) if name == link or name.startswith(f'{link}.')]
            if inside:
                count = min(count, inside[0])
            elif self._starts.get(name, -1) < self._starts[links[-1]]:
                return ()
        return links[:max((place + 1 for place in range(count) if links[place] in self._stored), default=0)]


def worth_it(chain: Chain, images: int) -> Set[str]:
    """Return the modules of a chain whose outputs are kept: those used elsewhere, and the smallest, as many as fit."""
    sizes = {name: 4.0 * images * math.prod(shape) for name, shape in chain.shapes[0].items()}
    order = sorted(chain.links, key=lambda name: (name not in chain.kept, sizes[name]))
    found: Set[str] = set()
    for name in order:
        if sum(sizes[one] for one in [*found, name]) > KEPT:
            return found if chain.kept <= found else set()
        found.add(name)
    return found
