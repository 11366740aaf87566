"""Constants that no checkpoint holds, such as positions by sines: which channels of them stay is more than how many."""
from typing import Any, Mapping, Sequence, Set

from torch import nn

from .structure import StructureError


def units_with_constants(model: nn.Module, units: Sequence[Any]) -> Set[str]:
    """Return the units that buffers follow which differ from channel to channel and are not saved with the weights."""
    saved = model.state_dict()
    constants = {name for name, buffer in model.named_buffers() if name not in saved and buffer.numel()
                 and not bool((buffer == buffer.reshape(-1)[0]).all())}
    return {unit.name for unit in units if constants & {member.axis.tensor for member in unit.channels.members}}


def check_says_which(structure: Mapping[str, Any], model: nn.Module, units: Sequence[Any]) -> None:
    """Check that a structure says which channels stay where that decides about constants.

    Raises:
        StructureError: It only says how many.
    """
    counted = {unit.name: unit for unit in units if isinstance(structure.get(unit.name), int)
               and 0 < structure[unit.name] < unit.width}
    if not counted:
        return
    unclear = sorted(units_with_constants(model, list(counted.values())))
    if unclear:
        raise StructureError(f'the structure says how many channels of {unclear[0]!r} stay, and not which: constants '
                             'that no checkpoint holds (positions by sines, rotary angles) follow them; take the '
                             'kept_channels.json of the run, or the structure that mmprune wrote')
