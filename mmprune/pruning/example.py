"""The inputs with which a model is called to find its units."""
from typing import Any, Mapping, Optional, Sequence

from torch import nn

from ..arguments import UserError
from ..graph.demo_input import check_inputs
from ..units.choice import check_choice
from ..units.mutator import ChannelMutator


def mutator_of(model: nn.Module, example_inputs: Any, choice: Optional[Mapping[str, Any]], mutate_linear: bool,
               proven: Sequence[str] = ()) -> ChannelMutator:
    """Return a prepared mutator of a model; the arguments are those of the Pruner, and ``proven`` of the mutator."""
    check_choice(choice or {})
    empty = next((name for name, parameter in model.named_parameters() if parameter.is_meta), None)
    if empty is not None:
        raise UserError(f'{empty!r} of {type(model).__name__} has no values (device meta): give it some first, by '
                        'model.to_empty(device="cpu") and model.load_state_dict(...)')
    several = isinstance(example_inputs, list) and any(
        isinstance(one, (tuple, Mapping)) or callable(one) for one in example_inputs)
    examples = example_inputs if several else [example_inputs]
    for one in examples:
        check_inputs(one)
    mutator = ChannelMutator(dict(type='ChannelUnit', mutate_linear=mutate_linear),
                             [dict(type='ExampleInputs', inputs=one) for one in examples], **(choice or {}))
    mutator.prepare(model, proven)
    return mutator
