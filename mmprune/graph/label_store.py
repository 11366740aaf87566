"""The labels of live tensors while a forward runs, and of parameters that it uses."""
import math
from typing import Any, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakTensorKeyDictionary


class Companion(NamedTuple):
    """An axis of a tensor that goes with an axis of a weight, as the norms ``g`` of a weight norm do."""

    tensor: Tensor
    axis: int  #: of the tensor
    weight_axis: int  #: of the weight


class LabelStore:
    """Which channel ids the elements of tensors have.

    Args:
        model (nn.Module): The traced model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.names = _tensor_names(model)
        self.labels = WeakTensorKeyDictionary()
        #: name -> labels of parameters that are used element by element
        self.loose: Dict[str, Tensor] = {}
        #: constants that the forward has just made, whose sizes may follow a cut
        self.constants = WeakTensorKeyDictionary()
        self._views = WeakTensorKeyDictionary()
        #: computed weight -> the parameter that it is computed from, row by row, and what else goes with its axes
        self._derived = WeakTensorKeyDictionary()
        #: names of the weights of conv and linear modules, and those among them that meet an activation otherwise
        self.layer_weights: Set[str] = set()
        self.computed_with: Set[str] = set()
        #: name of a layer's weight that something computes with -> ids of its filters
        self.filters: Dict[str, Tensor] = {}
        #: tensor that is computed from tensors of the model alone -> those of them that are in ``filters``
        self.sources = WeakTensorKeyDictionary()
        self._num_ids = 0

    def new_ids(self, count: int) -> Tensor:
        """Issue ``count`` fresh channel ids, ``Tensor[count]``."""
        self._num_ids += count
        return torch.arange(self._num_ids - count, self._num_ids)

    def is_tensor_of_model(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is a parameter or buffer of the traced model."""
        return id(tensor) in self.names

    def labels_of(self, tensor: Tensor) -> Optional[Tensor]:
        """Return the labels of a tensor, or None if it has no channels; an unused parameter gets an id an element."""
        labels = self.labels.get(tensor)
        if labels is None and self.names.get(id(tensor), '') in self.layer_weights:
            labels = self._label_filters(tensor)
        if labels is None and tensor in self._views:
            parameter, order = self._views[tensor]
            whole = self.labels_of(parameter)
            labels = self.labels[tensor] = None if whole is None else whole.permute(order)
        if labels is None and self.is_unused_parameter(tensor):
            self.label_parameter(tensor, range(tensor.dim()))
            labels = self.labels[tensor]
        return labels

    def _label_filters(self, weight: Tensor) -> Tensor:
        ids = self.filters[self.names[id(weight)]] = self.new_ids(len(weight))
        labels = self.labels[weight] = ids.view(-1, *[1] * (weight.dim() - 1)).expand(weight.shape)
        return labels

    def follow_sources(self, inputs: Any, out: Any, layer: bool = False) -> None:
        """Note what a result is computed from, or which layers' weights meet an activation in it.

        Args:
            inputs (Any): What an operation or function was given, nested.
            out (Any): What it returned, nested.
            layer (bool): It is the function of a layer, in which weights and activations meet.
        """
        tensors = [leaf for leaf in tree_flatten(inputs)[0] if isinstance(leaf, Tensor)]
        found = [self._sources_of(tensor) for tensor in tensors]
        alone = None not in found
        used = [sources for tensor, sources in zip(tensors, found) if sources and (
            alone or not layer or not self.is_tensor_of_model(tensor))]
        if alone:
            self.sources.update({leaf: frozenset().union(*used) for leaf in tree_flatten(out)[0]
                                 if isinstance(leaf, Tensor)})
        else:
            self.computed_with.update(*used)

    def _sources_of(self, tensor: Tensor) -> Optional[FrozenSet[str]]:
        """Return the layers' weights that a tensor is computed from; None if an activation is among its sources."""
        if tensor in self.sources:
            return self.sources[tensor]  # type: ignore[no-any-return]
        tensor = self._views.get(tensor, (tensor,))[0]
        name = self.names.get(id(tensor))
        if name is not None:
            return frozenset({name} & set(self.filters))
        return frozenset() if tensor.numel() == 1 and tensor not in self.labels else None

    def labels_in(self, *values: Any) -> List[Tensor]:
        """Return the labels of every labelled tensor among nested values."""
        found = (self.labels_of(leaf) for leaf in tree_flatten(values)[0] if isinstance(leaf, Tensor))
        return [labels for labels in found if labels is not None]

    def is_unused_parameter(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is a parameter or buffer of floats without labels so far."""
        return (self.is_tensor_of_model(tensor) and tensor not in self.labels and tensor.is_floating_point()
                and tensor.dim() > 0)

    def label_parameter(self, tensor: Tensor, axes: Sequence[int]) -> None:
        """Give a parameter ids that vary along some of its axes only."""
        shape = [size if axis in axes else 1 for axis, size in enumerate(tensor.shape)]
        labels = self.new_ids(math.prod(shape)).view(shape).expand(tensor.shape)
        self.loose[self.names[id(tensor)]] = labels
        self.labels[tensor] = labels

    def note_view(self, view: Tensor, source: Tensor, order: Sequence[int]) -> bool:
        """Note that a tensor is a matrix of the model, or an earlier view of one, with its axes in another order.

        Returns:
            bool: Whether it is: such a tensor is labelled when it is used, by what uses it.
        """
        parameter, before = self.weight_of(source)
        if parameter is None:
            return False
        self._views[view] = parameter, tuple(before[axis] for axis in order)
        return True

    def weight_of(self, tensor: Any) -> Tuple[Optional[Tensor], Tuple[int, ...]]:
        """Return the parameter or buffer that a tensor is, with its axes in some order, and that order; or None.

        Only tensors of floats with two and more axes, not used element by element before.
        """
        if isinstance(tensor, Tensor) and tensor not in self.labels:
            if tensor in self._views:
                parameter, order = self._views[tensor]
                return (parameter, order) if self.is_unused_parameter(parameter) else (None, ())
            if self.is_unused_parameter(tensor) and tensor.dim() > 1:
                return tensor, tuple(range(tensor.dim()))
        return None, ()

    def derive(self, weight: Tensor, parameter: Tensor, companions: Sequence[Companion]) -> None:
        """State that a computed weight has the rows and the columns of a parameter.

        Args:
            weight (Tensor): The computed weight.
            parameter (Tensor): The parameter, of the same shape, or a weight that was derived from one before.
            companions (list[Companion]): Other tensors of the model along its axes.
        """
        stored = self.stored_weight(parameter)
        if stored is not None:
            self._derived[weight] = stored[0], [*stored[1], *companions]

    def stored_weight(self, weight: Any) -> Optional[Tuple[Tensor, List[Companion]]]:
        """Return the parameter whose rows and columns a weight has, and the tensors that go along; or None."""
        if self.is_tensor_of_model(weight):
            return weight, []
        return self._derived.get(weight) if isinstance(weight, Tensor) else None


def _tensor_names(model: nn.Module) -> Dict[int, str]:
    """Return ``id(tensor) -> qualified name`` of all parameters and buffers; the first name wins."""
    names: Dict[int, str] = {}
    for prefix, module in model.named_modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                names.setdefault(id(tensor), f'{prefix}.{name}' if prefix else name)
    return names
