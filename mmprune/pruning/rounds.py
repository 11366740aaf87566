"""Cut and repair by turns: of a target that is far, more is left where each round scores the repaired network."""
import math
from typing import TYPE_CHECKING, Any, List, Mapping, Union

import numpy as np

from ..arguments import UserError, whole_number
from ..repair.result import Repair
from ..units.complexity import amount
from ..units.copies import own_copy
from ..units.mutator import ChannelMutator

if TYPE_CHECKING:
    from .pruner import Pruner

#: Share of the dense multiply-adds that a round takes at most.
STEP = 0.08


def cut_in_rounds(pruner: 'Pruner', images: Any, rounds: Union[int, str], how: str,
                  optimizers: Any = ()) -> List[Repair]:
    """Cut a model to its target in rounds, and repair it after each against what it was at first.

    Args:
        pruner (Pruner): With a target; its model is dense.
        images (Tensor[N, *] or sequence, optional): See :meth:`Pruner.repair`.
        rounds (int or str): How many, or ``auto``.
        how (str): See :meth:`Pruner.repair`.
        optimizers (list[Optimizer]): Their state follows.

    Raises:
        UserError: The model is cut already, or ``rounds`` is neither a number nor ``auto``.
    """
    if any(not unit.kept.all() for unit in pruner.mutator.all_units):
        raise UserError('the model is cut already, so that rounds have no dense model to compare with: call cut() and '
                        'repair(images, dense) with a copy from before the first cut')
    count = rounds_for(pruner.mutator, pruner.choose().masks) if rounds == 'auto' else whole_number(
        'rounds', rounds, must="it must be 'auto' or a whole number of 1 or more")
    dense, done = own_copy(pruner.model), []
    for number in range(1, count + 1):
        pruner.cut(optimizers, number / count)
        done.append(pruner.repair(images, dense, how))
    return done


def rounds_for(mutator: ChannelMutator, masks: Mapping[str, np.ndarray]) -> int:
    """Return in how many rounds a plan is cut, so that none takes more than :data:`STEP` of the dense multiply-adds.

    Args:
        mutator (ChannelMutator): Of the model as it is.
        masks (dict[str, ndarray[sets], bool]): Unit name -> which sets stay in the end.
    """
    goes = amount(mutator.cost, 'flops') - amount(mutator.complexity.cost(mutator.surgery.widths_with(masks)), 'flops')
    return max(1, math.ceil(goes / max(1, amount(mutator.complexity.cost({}), 'flops')) / STEP - 1e-9))
