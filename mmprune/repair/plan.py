"""What a repair will do: which layers are solved again, which are left and why, in which stages."""
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from torch import nn

from ..arguments import UserError
from ..graph.idle import CONV_OR_LINEAR
from ..units.attention.product import QueryScale
from ..units.layer import is_deformable, layer_reading
from ..units.mutator import ChannelMutator
from .chain import Chain, find_chain
from .layer import PART, Layer, dropped_inputs, present_outputs
from .parameter_rows import rows_layers
from .sampling import Sampling, enough_samples
from .survey import Call, Survey
from .twin import Stage
from .windows import channels_first, spatial

#: Inputs of an output at most, whose products among one another take half a gigabyte in float64.
MOST_UNKNOWNS = 8192


class RepairPlan(NamedTuple):
    """What a repair will do."""

    stages: List[Stage]  #: in the order of execution
    chain: Optional[Chain]  #: where the model is cut apart
    half: bool  #: what lies between the stages is stored in half precision
    left: Dict[str, str]  #: layer that reads channels that are gone -> why it is left as it is


def make_repair_plan(mutator: ChannelMutator, dense: nn.Module, run: Callable[[nn.Module], Any], positions: int,
                     may_add_bias: bool, images: int, memory: float) -> RepairPlan:
    """Run both models once, and plan.

    Args:
        mutator (ChannelMutator): Of the cut model.
        dense (nn.Module): Its dense twin.
        run (Callable): Runs a model on a few images.
        positions (int): Positions of an image that are sampled in each layer at most.
        may_add_bias (bool): A layer without a place for its offset gets a bias.
        images (int): Images of the repair.
        memory (float): Bytes that may lie between two stages, for each image given to ``run``.

    Raises:
        UserError: The twin is not the dense model of which the cut one was made.
    """
    check_twin(mutator, dense)
    survey = Survey(mutator.model, run)
    layers = _in_order([*_layers(mutator, dense, survey, (positions, images), may_add_bias),
                        *_rows(mutator, dense, survey, run, (positions, images))], survey)
    chain = find_chain(survey, [mutator.model, dense], run)
    sizes = {} if chain is None else {name: 4.0 * sum(_numel(call) for call in survey.by_name()[name])
                                      for name in chain.links}
    stages = _stages(layers, survey, chain, sizes, memory)
    stored = [sizes[stage.links[-1]] for stage in stages if stage.links]
    half = 2.5 * max(stored, default=0) > memory  # of both, and the dense one is wider
    for stage in stages:
        for layer in stage.layers:
            if layer.summand is not None and not _runs_in(stage, chain, layer.summand.module):
                layer.summand = None
    return RepairPlan(stages, chain, half, _left(mutator, survey, layers))


def check_twin(mutator: ChannelMutator, dense: nn.Module) -> None:
    """Raise UserError unless the tensors of a model have the sizes of the dense model of a mutator."""
    tensors = dict([*dense.named_parameters(remove_duplicate=False), *dense.named_buffers(remove_duplicate=False)])
    for name, members in mutator.surgery.members.items():
        axis = members[0][1].axis
        if name not in tensors and name.endswith('.bias'):
            continue  # it was added by a repair
        found = tuple(tensors[name].shape) if name in tensors else None
        if found is None or found[axis.dim] != len(axis.ids):
            raise UserError(f'dense: {name!r} is {"missing" if found is None else f"of shape {found}"}, and the dense '
                            f'model has {len(axis.ids)} channels along axis {axis.dim}: give a copy of the model from '
                            'before the cut, copy.deepcopy(model)')


def _numel(call: Call) -> int:
    return 0 if call.out is None else call.out.numel()


def _sampling(module: nn.Module, calls: Sequence[Call], sampled: Tuple[int, int]) -> Sampling:
    """Return how much of a layer is sampled.

    Args:
        module (nn.Module): The layer.
        calls (list[Call]): Its calls on a few images.
        sampled (tuple[int, int]): Positions of an image at most, and images of the repair.
    """
    weight: Any = module.weight
    places = sum(spatial(channels_first(module, call.out)).size(2) for call in calls if call.out is not None)
    return enough_samples(weight[0].numel(), places, sampled[1], sampled[0])


def _layers(mutator: ChannelMutator, dense: nn.Module, survey: Survey, sampled: Tuple[int, int],
            may_add_bias: bool) -> List[Layer]:
    modules, dense_modules = dict(mutator.model.named_modules()), dict(dense.named_modules())
    found: List[Layer] = []
    for name, calls in survey.by_name().items():
        module: Any = modules[name]
        if not isinstance(module, CONV_OR_LINEAR) or name in survey.unlike or is_deformable(module) \
                or name not in dense_modules or any(call.x is None or call.out is None for call in calls) \
                or module.weight[0].numel() > MOST_UNKNOWNS:
            continue
        weight = f'{name}.weight' if name else 'weight'
        rows = present_outputs(mutator, weight, len(dense_modules[name].weight))
        norms = survey.feeds_only(name, modules)
        summand = survey.summand(name, norms)
        found.append(Layer(name, weight, module, rows.to(module.weight.device),
                           tuple((modules[norm], dense_modules[norm]) for norm in norms), len(calls),
                           _sampling(module, calls, sampled), hash((id(calls[0].x), calls[0].versions[0])),
                           may_add_bias, summand, survey.clip(name, norms, summand is not None)))
    return found


def _in_order(layers: Sequence[Layer], survey: Survey) -> List[Layer]:
    """Return layers in the order of their first calls."""
    calls = survey.by_name()
    return sorted(layers, key=lambda layer: calls[layer.watched][min(layer.turns, default=0)].start)


def _rows(mutator: ChannelMutator, dense: nn.Module, survey: Survey, run: Callable[[nn.Module], Any],
          sampled: Tuple[int, int]) -> List[Layer]:
    """Return the layers that are rows of parameters of other modules."""
    read = {name: calls for name, calls in survey.by_name().items() if all(call.rows is not None for call in calls)}
    weights = {reading[0]: weight for weight in mutator.surgery.members
               if (reading := layer_reading(mutator.model, weight)) is not None and reading[0] in read}
    twins = Survey(dense, run).by_name() if weights else {}
    found: List[Layer] = []
    for name, weight in weights.items():
        own, others = ([call.rows for call in calls if call.rows is not None]
                       for calls in (read[name], twins.get(name, [])))
        parts = rows_layers(own, others)
        for place, part in enumerate(parts):
            sampling = _sampling(part.module, [read[name][turn] for turn in part.turns], sampled)
            first = own[part.turns[0]]
            rows = present_outputs(mutator, weight, len(others[0].weight))[first.start:first.stop] - part.first
            found.append(Layer(f'{name}{PART}{place}' if len(parts) > 1 else name, weight, part.module,
                               rows.to(first.weight.device), (), len(part.turns), sampling,
                               hash((id(first.x), 0)), turns=part.turns))
    return found


def _left(mutator: ChannelMutator, survey: Survey, layers: Sequence[Layer]) -> Dict[str, str]:
    solved, ran = {layer.weight for layer in layers}, {call.name for call in survey.calls}
    found: Dict[str, str] = {}
    for weight in mutator.surgery.members:
        name, _, attribute = weight.rpartition('.')
        unit = dropped_inputs(mutator, weight)
        if unit is None or weight in solved:
            continue
        module = mutator.model.get_submodule(name)
        if isinstance(module, QueryScale):  # it has nothing to solve
            continue
        found[weight] = ('it does not run as a module of its own on these images' if name not in ran else
                         'a transposed convolution is not solved' if getattr(module, 'transposed', False) else
                         'a deformable convolution is not solved' if is_deformable(module) else
                         f'each of its outputs has {module.weight[0].numel():,} inputs, and those of {MOST_UNKNOWNS:,} '
                         'at most are solved' if isinstance(module, CONV_OR_LINEAR)
                         and module.weight[0].numel() > MOST_UNKNOWNS else
                         'its output is not its weight times what it reads')
    return found


def _stages(layers: Sequence[Layer], survey: Survey, chain: Optional[Chain], sizes: Dict[str, float],
            memory: float) -> List[Stage]:
    """Return the stages; ``sizes`` are the bytes that the modules of the chain return."""
    if chain is None:
        return [Stage('rest', (), list(layers))]
    links = _links(layers, chain.links, {name: size for name, size in sizes.items() if size <= memory})
    stages = [Stage('links', names, _inside(layers, names)) for names in links]
    others = [layer for layer in layers if not any(layer in stage.layers for stage in stages)]
    calls = survey.by_name()
    start = calls[chain.links[0]][0].start
    first = [layer for layer in others if calls[layer.watched][-1].end < start]
    return [Stage('head', (), first), *stages, Stage('rest', (), [one for one in others if one not in first])]


def _links(layers: Sequence[Layer], chain: Sequence[str], sizes: Dict[str, float]) -> List[Tuple[str, ...]]:
    """Return the modules of a chain in stages, each with a layer: one ends where least is returned before the next.

    Args:
        layers (list[Layer]): All layers.
        chain (list[str]): The modules.
        sizes (dict[str, float]): Module -> bytes that it returns, without those that return too much.
    """
    found: List[Tuple[str, ...]] = []
    waiting: Tuple[str, ...] = ()
    solved = 0  # of those that wait up to the last with a layer
    for name in chain:
        has_layer = bool(_inside(layers, (name,)))
        ends = [end for end in range(solved, len(waiting) + 1) if waiting[end - 1] in sizes] if solved else []
        if has_layer and ends:
            end = min(ends, key=lambda end: (sizes[waiting[end - 1]], -end))
            found, waiting = [*found, waiting[:end]], waiting[end:]
        waiting = (*waiting, name)
        solved = len(waiting) if has_layer else solved
    return [*found, waiting] if solved or not found else [*found[:-1], found[-1] + waiting]


def _inside(layers: Sequence[Layer], names: Sequence[str]) -> List[Layer]:
    return [layer for layer in layers if _is_in(layer.name, names)]


def _is_in(module: str, names: Sequence[str]) -> bool:
    return any(module == name or module.startswith(f'{name}.') for name in names)


def _runs_in(stage: Stage, chain: Optional[Chain], module: str) -> bool:
    """Tell whether a stage calls a module; what comes after the chain does not run it."""
    return _is_in(module, stage.links) if stage.links else chain is None or not _is_in(module, chain.links)
