"""The fold of one stream: what writes it and what reads its norms take over what these do with the mean."""
import math
from typing import Any, Callable, Dict, List, Optional

import torch
from torch import Tensor, nn

from ...graph.channels import CoupledChannels, Member
from ...units.attention.norm import StreamNorm
from .modules import AddedSum, Layout, RootMeanSquareNorm
from .rows import CONVOLUTIONS, MatchedRows


class StreamFold:
    """Says how a stream is folded, from a model that is run; see :mod:`.norms` for what that is.

    Args:
        model (nn.Module): The model.
        channels (CoupledChannels): The stream.
        forward (Callable): Runs the model.

    Attributes:
        folded (list[str]): Norms that become root mean squares.
        is_possible (bool): Whether there are any, and all else of the stream can be mixed.
    """

    def __init__(self, model: nn.Module, channels: CoupledChannels, forward: Callable[[nn.Module], Any]) -> None:
        modules = dict(model.named_modules())
        self.norms = {member.axis.layer: member for member in channels.members
                      if member.axis.across and member.axis.tensor.endswith('.weight')}
        self.members = [member for member in channels.members if member.axis.layer not in self.norms]
        names = [*self.norms, *(member.axis.layer for member in self.members if member.axis.layer in modules)]
        rows = MatchedRows({name: modules[name] for name in names}, lambda: forward(model))
        self.sources = self._sources(rows)
        self.folded = [name for name in self.norms if self._can_fold(name, model, rows)]
        self.first = [name for name in self.norms if any(rows.source(other, [name]) for other in self.norms)]
        self.scales = self._scales(modules, rows)
        self.layouts = {name: Layout.of(member.index) for name, member in self.norms.items()}
        widths = {modules[name].dense_width / member.index.shape[1] if isinstance(modules[name], StreamNorm) else None
                  for name, member in self.norms.items()}
        self.kept, self.dense = len(next(iter(self.norms.values())).index), widths.pop()
        self.is_possible = bool(self.folded) and not widths and None not in (
            self.dense, *self.layouts.values()) and all(
                member.axis.groups == 1 and member.axis.role != 'depthwise' for member in self.members)

    def _sources(self, rows: MatchedRows) -> Dict[str, Optional[str]]:
        """Return the norm that each layer reads, None where it reads the stream itself."""
        readers = dict.fromkeys(member.axis.layer for member in self.members if member.axis.role == 'in')
        found = {name: rows.source(name, self.norms) for name in readers}
        read = {*found.values()}
        for name in [name for name, norm in found.items() if norm is None]:
            last = rows.last_before(name, self.norms)
            found[name] = last if last not in read else None  # a mean over tokens, say, of the norm before it
        return found

    def _can_fold(self, name: str, model: nn.Module, rows: MatchedRows) -> bool:
        """Tell whether all that a norm does can be taken over by the layers that read it."""
        readers = [member for member in self.members
                   if member.axis.role == 'in' and self.sources[member.axis.layer] == name]
        return type(model.get_submodule(name)).forward is StreamNorm.forward and self.norms[name].index.shape[1] == 1 \
            and bool(readers) and all(rows.source(member.axis.layer, [name]) is not None and takes_over(model, member)
                                      for member in readers)

    def _scales(self, modules: Dict[str, nn.Module], rows: MatchedRows) -> Dict[str, str]:
        """Return the modules that do nothing but multiply what a layer writes, by channel, and that layer."""
        writers = [member.axis.layer for member in self.members if member.axis.role == 'out']
        names = dict.fromkeys(member.axis.layer for member in self.members if member.axis.role == 'affine')
        single = [name for name in names if name not in writers and name in modules
                  and len([*modules[name].parameters(recurse=False)]) == 1]
        found = {name: rows.source(name, writers) for name in single}
        return {name: writer for name, writer in found.items() if writer is not None}

    def apply(self, model: nn.Module) -> 'Changes':
        """Fold the stream of a model with the same modules; return what was changed."""
        assert self.dense is not None
        share, changes = self.kept / self.dense, Changes(model)
        root = (math.sqrt(1 - share) - 1) / self.kept
        inverse = (1 / math.sqrt(1 - share) - 1) / self.kept
        for scale, writer in self.scales.items():
            changes.take_scale(scale, writer)
        for member in self.members:
            norm = self.sources.get(member.axis.layer)
            if member.axis.role == 'in' and norm in self.folded:
                changes.take_norm(member, norm, self.norms[norm])
            if member.axis.role == 'in' and norm is None:
                changes.add_sums(member, inverse)
            elif member.axis.layer not in self.scales and (member.axis.role != 'in' or norm in self.folded):
                changes.add_sums(member, root)
        for name, layout in self.layouts.items():
            norm_module: Any = model.get_submodule(name)
            if name in self.folded:
                new: nn.Module = RootMeanSquareNorm(torch.full_like(norm_module.weight, share ** -0.5),
                                                    norm_module.eps / share)
            else:
                assert layout is not None
                new = nn.Sequential(AddedSum(inverse, norm_module.axis, layout), norm_module, *(
                    [AddedSum(root, norm_module.axis, layout)] if name in self.first else []))
            changes.put(name, new)
        return changes


def takes_over(model: nn.Module, member: Member) -> bool:
    """Tell whether a layer reads all channels of a stream along an axis, and can have an offset everywhere."""
    module: Any = model.get_submodule(member.axis.layer)
    if member.index.size != tensor_of(model, member).size(1) or member.axis.dim != 1:
        return False
    if isinstance(module, CONVOLUTIONS):
        return not any(module.padding)
    return isinstance(module, nn.Linear) or bias_of(model, member) is not None


def tensor_of(model: nn.Module, member: Member) -> Any:
    """Return the parameter or buffer that a member lies on."""
    owner, _, name = member.axis.tensor.rpartition('.')
    return getattr(model.get_submodule(owner), name)


def bias_of(model: nn.Module, member: Member) -> Any:
    """Return the bias that goes with a weight, None without."""
    owner, _, name = member.axis.tensor.rpartition('.')
    return getattr(model.get_submodule(owner), name.replace('weight', 'bias'), None)


class Changes:
    """Changes of a model, in float64 whatever its own type is, which can be undone.

    Args:
        model (nn.Module): The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._undo: List[Callable[[], Any]] = []

    def undo(self) -> None:
        """Let the model be as it was."""
        for undo in reversed(self._undo):
            undo()

    def _write(self, tensor: Any, values: Tensor) -> None:
        before = tensor.data
        self._undo.append(lambda: setattr(tensor, 'data', before))
        tensor.data = values.to(before.dtype)

    def put(self, name: str, new: nn.Module) -> None:
        """Put a module in the place of another."""
        parent, _, leaf = name.rpartition('.')
        owner = self.model.get_submodule(parent)
        before = getattr(owner, leaf)
        self._undo.append(lambda: setattr(owner, leaf, before))
        setattr(owner, leaf, new)

    def add_sums(self, member: Member, factor: float) -> None:
        """Multiply a tensor by ``I + factor 1 1^T`` along an axis, in each of the places that hold all channels."""
        tensor = tensor_of(self.model, member)
        values = tensor.data.double().movedim(member.axis.dim, 0).clone()
        for place in torch.from_numpy(member.index.T.copy()):
            values[place] += factor * values[place].sum(0)
        self._write(tensor, values.movedim(0, member.axis.dim).contiguous())

    def take_scale(self, scale: str, writer: str) -> None:
        """Let a layer return what a module behind it makes of that by a factor for each channel."""
        factor = next(self.model.get_submodule(scale).parameters(recurse=False))
        for tensor in self.model.get_submodule(writer).parameters(recurse=False):
            self._write(tensor, tensor.data.double() * factor.data.double().reshape(-1, *[1] * (tensor.dim() - 1)))
        self._write(factor, torch.ones_like(factor))

    def take_norm(self, member: Member, name: str, normalised: Member) -> None:
        """Let a layer do what the norm in front of it does with its weight and its bias.

        Args:
            member (Member): Columns of the layer's weight.
            name (str): The norm.
            normalised (Member): Its channels.
        """
        norm: Any = self.model.get_submodule(name)
        tensor, bias = tensor_of(self.model, member), bias_of(self.model, member)
        weight = tensor.data.double().clone()
        order, place = torch.from_numpy(normalised.index[:, 0]), torch.from_numpy(member.index[:, 0])
        if norm.bias is not None:
            columns = weight[:, place].flatten(2).sum(2) if weight.dim() > 2 else weight[:, place]
            offset = columns @ norm.bias.data.double()[order]
            if bias is None:
                module: Any = self.model.get_submodule(member.axis.layer)
                self._undo.append(lambda: setattr(module, 'bias', None))
                module.bias = nn.Parameter(offset.to(tensor.dtype))
            else:
                self._write(bias, bias.data.double() + offset)
        weight[:, place] *= norm.weight.data.double()[order].reshape(-1, *[1] * (weight.dim() - 2))
        self._write(tensor, weight)
