"""Removal of a whole residual block, of which only the shortcut stays.

The shortcut is found by running the block: without its branch the block must compute its input, or what a child makes
of the input, with or without a ReLU behind.
"""
import copy
import os
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from ..graph.channels import CoupledChannels
from ..graph.watching import watched
from .copies import double_copy
from .equivalence import Deterministic, randomise
from .unit import ChannelUnit

#: Relative difference, in float64, up to which a block without its branch equals its shortcut.
TOLERANCE = 1e-9


class Block(NamedTuple):
    """A residual block."""

    module: str  #: name of the block
    units: List[str]  #: units that lie inside it
    ending: List[str]  #: end of its branch: the layers that read these units, and the norms behind them
    shortcut: 'Shortcut'  #: the block without its branch; children keep their names


class Shortcut(nn.Module):
    """A residual block without its branch.

    Args:
        name (str, optional): Name of the child that is the shortcut; None for the input itself.
        child (nn.Module, optional): The child.
        relu (bool): Whether a ReLU follows.
    """

    def __init__(self, name: Optional[str] = None, child: Optional[nn.Module] = None, relu: bool = False) -> None:
        super().__init__()
        self.name, self.relu = name, relu
        if name is not None and child is not None:
            self.add_module(name, child)

    def forward(self, x: Tensor) -> Tensor:
        """Run the shortcut."""
        if self.name is not None:
            x = self.get_submodule(self.name)(x)
        return x.relu() if self.relu else x

    def extra_repr(self) -> str:
        """Return whether a ReLU follows."""
        return 'relu' if self.relu else ''


def find_blocks(model: nn.Module, units: Sequence[ChannelUnit], frozen: Sequence[CoupledChannels],
                forward: Callable[[nn.Module], Any]) -> List[Block]:
    """Find the residual blocks that can be removed.

    Args:
        model (nn.Module): The model; a copy with random norms is run, so that every branch contributes.
        units (list[ChannelUnit]): Its units.
        frozen (list[CoupledChannels]): Its frozen channels.
        forward (Callable): Called with a model; runs it once.

    Returns:
        list[Block]: In the order of their units, none inside another.
    """
    layers = {unit.name: [member.axis.layer for member in unit.channels.members] for unit in units}
    candidates: Dict[str, None] = {}
    for names in layers.values():
        parts = os.path.commonprefix([layer.split('.')[:-1] for layer in names])
        candidates.update({'.'.join(parts[:count]): None for count in range(len(parts), 0, -1)})
    model = double_copy(model).eval()
    randomise(model, seed=0)
    seen = _calls(model, list(candidates), forward)
    blocks: List[Block] = []
    for name in candidates:
        inside = [unit for unit in units if all(_is_in(layer, name) for layer in layers[unit.name])]
        taken = {unit for block in blocks for unit in block.units}
        if name in seen and inside and not taken & {unit.name for unit in inside}:
            groups = [*(unit.channels for unit in units), *frozen]
            block = _block(model.get_submodule(name), name, inside, groups, *seen[name])
            blocks += [] if block is None else [block]
    return blocks


def _is_in(layer: str, module: str) -> bool:
    return layer == module or layer.startswith(f'{module}.')


def _calls(model: nn.Module, names: Sequence[str],
           forward: Callable[[nn.Module], Any]) -> Dict[str, Tuple[Tensor, Tensor]]:
    """Run the model; return name -> input and output of the modules that ran once, on a single tensor."""
    seen: Dict[str, List[Tuple[Any, Any]]] = {}

    def see(name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        seen.setdefault(name, []).append((args, out))

    with watched([(name, model.get_submodule(name)) for name in names], after=see), torch.no_grad(), Deterministic():
        forward(model)
    return {name: (calls[0][0][0].detach(), calls[0][1].detach()) for name, calls in seen.items()
            if len(calls) == 1 and len(calls[0][0]) == 1 and isinstance(calls[0][0][0], Tensor)
            and isinstance(calls[0][1], Tensor)}


def _block(module: nn.Module, name: str, inside: Sequence[ChannelUnit], groups: Sequence[CoupledChannels], x: Tensor,
           out: Tensor) -> Optional[Block]:
    """Return the block that a module is, or None."""
    produced = {member.axis.layer for unit in inside for member in unit.channels.producers}
    read = {member.axis.layer for unit in inside for member in unit.channels.consumers}
    ending = [part for layer in sorted(read - produced) for part in _with_norms(layer, groups) if _is_in(part, name)]
    relative = {layer: layer[len(name):].lstrip('.') for layer in {*produced, *read, *ending}}
    with torch.no_grad():
        idle = copy.deepcopy(module)
        switch_off(idle, [relative[layer] for layer in ending])
        without = idle(x)
        if torch.allclose(without, out, rtol=0, atol=1e-6 * float(out.abs().max())):
            return None  # without an effect of the branch the shortcut cannot be found
        for child_name, child, relu in _shortcuts(module, list(relative.values())):
            shortcut = Shortcut(child_name, child, relu)
            try:
                alone = shortcut(x)
            except (RuntimeError, TypeError):  # the child takes another input
                continue
            if isinstance(alone, Tensor) and alone.shape == without.shape \
                    and float((alone - without).abs().max()) <= TOLERANCE * float(without.abs().max()):
                return Block(name, [unit.name for unit in inside], ending, shortcut)
    return None


def _shortcuts(module: nn.Module, branch: Sequence[str]) -> Iterator[Tuple[Optional[str], Optional[nn.Module], bool]]:
    """Return possible shortcuts: name and module of a child outside the branch (None: the input), and a ReLU or not."""
    outside = [(name, child) for name, child in module.named_children()
               if not any(_is_in(layer, name) for layer in branch) and any(True for _ in child.parameters())]
    for name, child in [(None, None), *outside]:
        yield from ((name, child, relu) for relu in (False, True))


def _with_norms(layer: str, groups: Sequence[CoupledChannels]) -> List[str]:
    """Return a layer and the norms that its output passes before anything else reads or joins it."""
    found = [layer]
    for channels in groups:
        behind = False
        for member in channels.members:  # in the order of the forward pass
            if member.axis.role != 'affine':
                behind = member.axis.layer == layer and member.axis.role in ('out', 'depthwise')
            elif behind and member.axis.layer not in found:
                found.append(member.axis.layer)
    return found


def switch_off(model: nn.Module, ending: Sequence[str]) -> None:
    """Let a branch put out zeros, by zeroing ``ending``: its last layers and the norms behind them, in place."""
    for name in ending:
        module = model.get_submodule(name)
        for parameter in module.parameters(recurse=False):
            parameter.detach().zero_()
        if isinstance(getattr(module, 'running_mean', None), Tensor):
            module.running_mean.zero_()  # type: ignore[operator, union-attr]


def remove(model: nn.Module, block: Block) -> List[str]:
    """Replace a block, found in this model or in a copy, by its shortcut; return the removed parameters and buffers."""
    before = [name for name, _ in [*model.named_parameters(), *model.named_buffers()]]
    shortcut = block.shortcut
    child = None if shortcut.name is None else model.get_submodule(f'{block.module}.{shortcut.name}')
    parent, _, name = block.module.rpartition('.')
    setattr(model.get_submodule(parent), name, Shortcut(shortcut.name, child, shortcut.relu))
    after = {name for name, _ in [*model.named_parameters(), *model.named_buffers()]}
    return [name for name in before if name not in after]
