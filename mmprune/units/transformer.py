"""Attentions and norms of a model are taken over while it is prunable, and those that no unit touches given back."""
import re
from typing import Any, Callable, Dict, List, Optional, Sequence

from mmengine.logging import print_log
from torch import Tensor, nn

from ..arguments import UserError
from ..graph.capture import ERRORS
from ..graph.channels import CoupledChannels
from .attention import families  # noqa: F401  (fills the table)
from .attention.norm import StreamNorm, StreamRMSNorm
from .attention.taking_over import forward_for, give_back, key_of, plain_class, take_over, why_unfit
from .choice import Choice
from .equivalence import outputs, relative_difference
from .modes import in_eval

#: Largest relative difference of float32 outputs of a model before and after its attentions were taken over.
TOLERANCE = 1e-3
#: Where in the model something happened, in a reason to stay.
WHERE = re.compile(r"module '([^']*)'")


class Transformer:
    """The modules of a model that run another forward while they are prunable.

    Args:
        choice (Choice): Its ``attention`` and ``stream`` say what of a transformer is pruned.
    """

    def __init__(self, choice: Choice) -> None:
        self.attention, self.stream = choice.attention, choice.stream
        self.taken: List[nn.Module] = []
        self.unfit: Dict[str, str] = {}

    def take(self, model: nn.Module, forward: Callable[[nn.Module], Any]) -> None:
        """Take over what is known, where the model computes the same afterwards.

        Args:
            model (nn.Module): The dense model.
            forward (Callable): Runs it on a demo input.
        """
        norms = self.stream != 'whole'
        self.unfit = {name: why for name, module in model.named_modules() if self.attention and (
            why := why_unfit(module)) is not None}
        known = [module for module in model.modules() if forward_for(module, self.attention or norms, norms)]
        if not known:
            return
        before = _outputs(model, forward)
        take_over(known)
        self.taken = known
        if before is None:
            return
        for key in sorted({key_of(plain_class(module)) for module in self.taken}):
            after = _outputs(model, forward)
            if after is not None and relative_difference(before, after) <= TOLERANCE:
                return
            print_log(f'a model with modules like {key} computes something else when mmprune runs them: they stay as '
                      'they are, and their heads whole', logger='current', level=30)
            self._return([module for module in self.taken if key_of(plain_class(module)) == key])

    def _return(self, modules: Sequence[nn.Module]) -> None:
        give_back(modules)
        self.taken = [module for module in self.taken if not any(module is other for other in modules)]

    def settle(self, model: nn.Module, units: Sequence[CoupledChannels], frozen: Sequence[CoupledChannels]) -> None:
        """Give back what no unit touches; with ``stream='kept'`` let the norms forget what was removed.

        Args:
            model (nn.Module): The model.
            units (list[CoupledChannels]): What may be pruned.
            frozen (list[CoupledChannels]): What stays; it loses the tensors that only our forwards have.
        """
        names = {id(module): name for name, module in model.named_modules()}
        touched = {member.axis.tensor for unit in units for member in [*unit.members, *unit.attributes]}
        unused = []
        for module in self.taken:
            own = names[id(module)]
            if own and not any(tensor.startswith(f'{own}.') for tensor in touched):
                unused.append(module)
            elif isinstance(module, (StreamNorm, StreamRMSNorm)):
                module.counts_removed = self.stream != 'kept'
        added = {f'{names[id(module)]}.{name}.' for module in unused for name in getattr(type(module), 'adds', ())}
        self._return(unused)
        for channels in frozen:
            channels.reason = self._with_cause(channels.reason)
            own = {member.axis.tensor for member in [*channels.members, *channels.attributes]}
            gone = {tensor for tensor in own if tensor.startswith(tuple(added))}
            if gone:
                channels.forget(gone)

    def _with_cause(self, reason: Optional[str]) -> Optional[str]:
        """Return a reason to stay that names an attention, with what about the attention is not followed."""
        place = WHERE.search(reason or '')
        causes = [f'{name} runs its own forward, since {why}' for name, why in self.unfit.items()
                  if place is not None and f'{place.group(1)}.'.startswith(f'{name}.')]
        return '; '.join([reason, *causes]) if reason and causes else reason


def _outputs(model: nn.Module, forward: Callable[[nn.Module], Any]) -> Optional[List[Tensor]]:
    """Return what a model computes in eval mode, its outputs as they are, or None where it does not run in it."""
    with in_eval(model):
        try:
            return outputs(model, forward, False)
        except (UserError, *ERRORS):  # whatever is wrong with the model or its input, the trace says it
            return None
