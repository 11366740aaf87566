"""A model that a run prunes: the architecture, its units, and checkpoints that contain both."""
from typing import Any, Dict, Iterable, List, Mapping, Optional, Protocol, Union

import numpy as np
import torch
from mmengine.model import BaseModel
from torch import nn

from ..arguments import UserError, WrongTypeError
from ..registry import MODELS, build
from ..units.mutator import ChannelMutator
from .architecture import build_architecture, prepare, pretrained_path
from .checkpoint import load_state, load_weights, read_state_dict
from .checkpoint_file import CheckpointError
from .pruned_state import check_cut_fit, leave_lacking_whole, masks_of, refuse_mmrazor


class Follower(Protocol):
    """An object with a copy of the model, such as its average over the iterations."""

    def take_orders(self, orders: Mapping[str, np.ndarray]) -> None:
        """Let the dimensions of heads stand as in the model; see :meth:`ChannelMutator.take_orders`."""

    def cut(self, masks: Mapping[str, np.ndarray]) -> None:
        """Cut the copy by the same masks, unit name -> ``ndarray[sets]`` of bool."""


@MODELS.register_module()
class PruningAlgorithm(BaseModel):
    """A model that is pruned while it trains; hooks (:mod:`mmprune.engine.schedules`) say when, and which channels.

    Its checkpoints contain the cut tensors and which channels are kept: loading a checkpoint first cuts the model.

    Args:
        architecture (dict or nn.Module): The dense model. A module keeps its weights; a model from a config is
            initialised, from its ``init_cfg=dict(type='Pretrained', checkpoint=...)`` if it has that.
        mutator (dict): Defaults to ``dict(type='ChannelMutator')``.
        data_preprocessor (dict, optional): Given to the architecture.
        init_cfg (dict, optional): ``dict(type='Pretrained', checkpoint=...)`` loads a pruned checkpoint.

    Attributes:
        followers (list[Follower]): Copies that are cut with the model, for example its EMA.
    """

    default_mutator = 'ChannelMutator'
    mutator: Any

    def __init__(self, architecture: Union[dict, nn.Module], mutator: Optional[dict] = None,
                 data_preprocessor: Optional[Union[dict, nn.Module]] = None, init_cfg: Optional[dict] = None) -> None:
        architecture, self_initialised = build_architecture(architecture, data_preprocessor)
        super().__init__(getattr(architecture, 'data_preprocessor', None), init_cfg)
        self.architecture = architecture
        self.followers: List[Follower] = []
        self._weights_are_ready = not self_initialised
        unit = mutator.get('channel_unit_cfg') if isinstance(mutator, Mapping) else None
        if unit and not (isinstance(unit, Mapping) and 'type' in unit):
            raise UserError(f'mutator.channel_unit_cfg is {unit!r}; it must be a dict with the type of the units')
        self.mutator = build(MODELS, mutator or dict(type=self.default_mutator))
        if not isinstance(self.mutator, ChannelMutator):
            raise WrongTypeError(f'mutator must be a ChannelMutator, not {type(self.mutator).__name__}')
        prepare(self.mutator, architecture)

    def init_weights(self) -> None:
        """Load the pruned checkpoint of ``init_cfg``, or initialise the dense architecture.

        Raises:
            CheckpointError: The checkpoint is missing, unreadable, of another model or, for ``init_cfg``, not pruned.
        """
        if self._weights_are_ready:
            return
        pruned = pretrained_path(self.init_cfg)
        dense = pretrained_path(getattr(self.architecture, 'init_cfg', None))
        if pruned is not None:
            self.load_pruned(pruned)
        elif dense is not None:
            load_weights(self.architecture, dense, 'pretrained_path')
        elif hasattr(self.architecture, 'init_weights'):
            self.architecture.init_weights()
        self._weights_are_ready = True

    def load_pruned(self, path: str, role: str = 'pruned_path') -> None:
        """Cut to the structure of a pruned checkpoint and load its weights; one that does not fit changes nothing.

        Args:
            path (str): The checkpoint.
            role (str): What it is called in messages.

        Raises:
            CheckpointError: It is missing, unreadable, dense, or of another model.
            StructureError: Its units are not those of this model.
        """
        state = read_state_dict(path, role)
        refuse_mmrazor(state, path, role)
        masks = masks_of(self.mutator, state, f'{role}: the structure of {path!r}')
        if masks is None:
            raise CheckpointError(f'{role}: {path!r} holds no pruned structure; it must be a checkpoint of a prune '
                                  'run, such as flops_0.50.pth. A finetuned checkpoint belongs to its finetune config')
        check_cut_fit(self, self.mutator, state, masks, f'{role}: {path!r}')
        leave_lacking_whole(self.mutator, masks)
        self.mutator.cut(masks)
        load_state(self, state, f'{role}: {path!r}')

    def __getattr__(self, name: str) -> Any:
        """Look up other attributes in the architecture: hooks of a code base use its parts and methods."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == 'architecture':  # not set yet
                raise
            return getattr(self.architecture, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the architecture."""
        return self.architecture(*args, **kwargs)

    def cut(self, masks: Mapping[str, np.ndarray], optimizers: Iterable[torch.optim.Optimizer] = ()) -> None:
        """Cut the model, the state of its optimizers, and the copies in ``followers``.

        Args:
            masks (dict[str, ndarray[sets], bool]): Unit name -> which sets stay.
            optimizers (iterable[Optimizer]): Optimizers of the model.
        """
        orders = self.mutator.orders
        self.mutator.cut(masks, optimizers)
        for follower in self.followers:
            follower.take_orders(orders)
            follower.cut(masks)

    def _load_from_state_dict(self, state_dict: Dict[str, Any], prefix: str, *args: Any) -> None:
        """Cut to the structure of the state dict, so that its tensors fit, and load them; or change nothing."""
        own = {key[len(prefix):]: value for key, value in state_dict.items() if key.startswith(prefix)}
        masks = masks_of(self.mutator, own, 'the structure of the checkpoint')
        check_cut_fit(self, self.mutator, own, masks or {}, 'the checkpoint')  # mmengine only logs what does not fit
        if masks is not None:
            leave_lacking_whole(self.mutator, masks)
            self.mutator.cut(masks)
        super()._load_from_state_dict(state_dict, prefix, *args)
