"""Solve again, in closed form, what reads pruned channels: no gradient, no labels, a few hundred images.

Each layer of the cut model gets the weight and the offset with which its outputs are nearest to those of the dense twin
on the images, given what it reads now. The layers are solved in the order of execution, so that each makes up for what
was cut and solved before it. Least squares with a ridge towards the present weight; images that are held back say how
strong it is, and whether the layer is better than before: else it stays.
"""
import math
import time
from typing import Any, Dict, Iterable, Optional, Sequence, Tuple, Union

from torch import Tensor, nn

from ..arguments import UserError, number, one_of, typed, whole_number
from ..random_state import seeded
from ..units.modes import in_eval
from ..units.mutator import ChannelMutator
from .batches import batches_of, portions_of, rows_of
from .layer_by_layer import LayerByLayer, Settings
from .norms import recalibrate, set_statistics, statistics
from .result import LayerRepair, Repair
from .twin import Judge, attentions_run_alike

HOWS = ('full', 'bias', 'norms')
#: Images by which norms are measured anew after a refit.
ENOUGH_FOR_NORMS = 200


@typed
def repair(mutator: ChannelMutator, dense: Optional[nn.Module], images: Union[Tensor, Iterable[Any]],
           how: str = 'full', positions: int = 200, ridge: Optional[float] = None, may_add_bias: bool = True,
           seed: int = 0) -> Repair:
    """Repair a cut model in place.

    Memory: both networks, the images, one batch's forward of each, and about 2 GB: what lies between two stages of a
    model that is a chain of modules, and the sampled outputs of a stage. A model that is no chain is run from its
    inputs for each of its layers, which takes longer and no more memory.

    Args:
        mutator (ChannelMutator): Of the cut model.
        dense (nn.Module, optional): A copy of the model from before the cut, on its device; ``norms`` does without.
        images (Tensor[N, *] or iterable): All images, or batches of what the model is called with. Every fifth batch is
            held back to judge by.
        how (str): ``full``: weights and offsets. ``bias``: offsets only. ``norms``: no layer, but the running
            statistics of batch norms.
        positions (int): Positions sampled of each image in each layer, over all of its calls.
        ridge (float, optional): Strength of the ridge; by default the held-back images choose it. 0 is plain least
            squares.
        may_add_bias (bool): A layer that has no bias and feeds no batch norm alone gets a bias. Else it is solved
            without an offset.
        seed (int): Of the sampled positions. The process's own generators are left where they are.

    Raises:
        UserError: An argument has a wrong value; ``dense`` is not the model from before the cut; there are not two
            batches.
    """
    settings = Settings(one_of('how', how, HOWS), whole_number('positions', positions), ridge, may_add_bias,
                         whole_number('seed', seed, 0))
    if ridge is not None:
        number('ridge', ridge, 0, 1e6)
    if dense is None and how != 'norms':
        raise UserError(f'how={how!r} compares with the dense model: give dense, a copy from before the cut, '
                        'copy.deepcopy(model)')
    batches, held = batches_of(images)
    with seeded([seed]), in_eval(mutator.model, *([] if dense is None else [dense])):
        return _repaired(mutator, dense, batches, held, settings)


def _repaired(mutator: ChannelMutator, dense: Optional[nn.Module], batches: Sequence[Any], held: Sequence[int],
              settings: Settings) -> Repair:
    began, images = time.monotonic(), sum(map(rows_of, batches))
    if dense is None:
        recalibrate(mutator.model, batches)
        return Repair({}, {}, True, math.nan, math.nan, time.monotonic() - began, images)
    portions, held_portions = portions_of(dense, batches, held)
    judge = Judge(dense, [portions[number] for number in sorted(held_portions)])
    before = after = judge.error(mutator.model)
    layers: Dict[str, LayerRepair] = {}
    left: Dict[str, str] = {}
    norms = False
    if not all(unit.kept.all() for unit in mutator.all_units):
        if settings.how != 'norms':
            with attentions_run_alike(mutator.model, dense):
                refit = LayerByLayer(mutator, dense, portions, held_portions, settings)
                layers, left = refit.run(), refit.plan.left
            after = judge.error(mutator.model)
        others = [batch for number, batch in enumerate(batches) if number not in held]
        norms, after = _recalibrated(mutator.model, others, judge, after, settings.how == 'norms')
    return Repair(layers, left, norms, before, after, time.monotonic() - began, images)


def _recalibrated(model: nn.Module, batches: Sequence[Any], judge: Judge, before: float,
                  forced: bool) -> Tuple[bool, float]:
    """Measure the norms anew, unless the outputs are worse then; return whether, and the error."""
    own = statistics(model)
    if not own:
        return False, before
    some = batches if forced else batches[::max(1, sum(map(rows_of, batches)) // ENOUGH_FOR_NORMS)]
    recalibrate(model, some)
    after = judge.error(model)
    if forced or after < before:
        return True, after
    set_statistics(model, own)
    return False, before
