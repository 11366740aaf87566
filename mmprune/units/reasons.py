"""Why channels stay, in a few words each, and the share of the multiply-adds that stays for it."""
import re
from typing import Any, Dict, List, Mapping, Sequence

import numpy as np

from ..graph.channels import CoupledChannels
from ..graph.factors import HEADS, QUERY_KEY, VALUE

#: What is left where all units are cut to their last set.
LAST_CHANNEL = 'last channel of a unit'
INPUT_OR_OUTPUT = 'input and output'
LINEAR = 'linear layers (mutate_linear)'
#: Category -> pattern of the reasons that belong to it; the first that matches counts.
CATEGORIES: Dict[str, str] = {
    INPUT_OR_OUTPUT: "model's input, or comes|is an output of the model",
    LINEAR: 'mutate_linear',
    'choice of the user': 'is excluded|not among those to prune',
    'layer norm': 'layer_norm', 'group norm': 'group_norm',
    'attention': 'attention|with another activation|softmax',
    'computed weights': 'computed weight|weight is computed|used both as a layer weight|in two ways',
    'mixing of positions': 'mixes positions',
    'written sizes': 'written|fixed size|breaks the forward|counts positions|into parts|into \\d+ parts',
    'order of channels': 'cutting it changes|orders its channels|trial cut was given up',
    'values of all channels': 'reduces over|normalises|along its channels|combines',
    'tied channels': 'all tied|several axes|only channel',
    'layers that do not run': 'never runs|training only|is not used by',
    'operations without a rule': 'no channel rule|outside torch'}
OTHER = 'other operations'
#: What units of heads and dimensions are called.
PARTS = {HEADS: 'heads', QUERY_KEY: 'query-key dimensions', VALUE: 'value dimensions'}
STREAM, INNER = 'stream', 'inner channels'
#: Of which the message of an error lists the first.
MOST = 10


def category(reason: str) -> str:
    """Return in a few words why channels stay, without names and sizes."""
    return next((name for name, pattern in CATEGORIES.items() if re.search(pattern, reason)), OTHER)


def stay_shares(mutator: Any) -> Dict[str, float]:
    """Return category -> share of the dense multiply-adds that stays for it if every unit is cut to a single set.

    What is left of a layer is divided among the categories of its channels that stay, evenly.

    Args:
        mutator (ChannelMutator): Prepared on a dense model.
    """
    masks = {unit.name: np.arange(len(unit.kept)) == 0 for unit in mutator.units}
    least = mutator.surgery.widths_with(masks)
    whole = sum(mutator.complexity.macs_by_layer({}).values())
    shares: Dict[str, float] = {}
    reasons = _reasons_by_layer(mutator.frozen)
    for layer, macs in mutator.complexity.macs_by_layer(least).items():
        found = reasons.get(layer, [])
        inner = [name for name in found if name != INPUT_OR_OUTPUT]
        for name in inner or found or [LAST_CHANNEL]:
            shares[name] = shares.get(name, 0.0) + macs / whole / len(inner or found or [LAST_CHANNEL])
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _reasons_by_layer(frozen: Sequence[CoupledChannels]) -> Dict[str, List[str]]:
    """Return layer -> categories of its channels that stay, each once."""
    found: Dict[str, List[str]] = {}
    for channels in frozen:
        for member in [*channels.producers, *channels.consumers]:
            names = found.setdefault(member.axis.layer, [])
            name = category(str(channels.reason))
            if name not in names:
                names.append(name)
    return found


def kind_of(channels: CoupledChannels) -> str:
    """Return what the channels of a unit are in a transformer: heads, dimensions, the stream, or inner channels."""
    if channels.part:
        return PARTS[channels.part]
    return STREAM if any(member.axis.across for member in channels.members) else INNER


def shares_by_kind(mutator: Any) -> Dict[str, float]:
    """Return kind of unit -> share of the dense multiply-adds that goes if only units of this kind go, to a single set.

    Empty where a model has no heads and no stream among its units.
    """
    kinds = {unit.name: kind_of(unit.channels) for unit in mutator.units}
    whole, found = mutator.complexity.cost({})['macs'], {}
    for kind in (*PARTS.values(), INNER, STREAM):
        masks = {unit.name: np.arange(len(unit.kept)) == 0 for unit in mutator.units if kinds[unit.name] == kind}
        if masks:
            found[kind] = 1 - mutator.complexity.cost(mutator.surgery.widths_with(masks))['macs'] / whole
    return {} if {*found} <= {INNER} else found


def explain(mutator: Any) -> str:
    """Return a line such as ``58 % of the multiply-adds can go; 42 % stay: attention 31, layer norm 11``.

    Of a transformer it ends with what each kind of unit could take alone.
    """
    shares = stay_shares(mutator)
    stay = round(100 * sum(shares.values()))
    parts = ', '.join(f'{name} {percent}' for name, percent in _percents(shares, stay).items() if percent)
    line = f'{100 - stay} % of the multiply-adds can go; {stay} % stay' + (f': {parts}' if parts else '')
    kinds = ', '.join(f'{name} {100 * share:.0f} %' for name, share in shares_by_kind(mutator).items())
    return line + (f'; alone could go: {kinds}' if kinds else '')


def _percents(shares: Mapping[str, float], total: int) -> Dict[str, int]:
    """Return whole percents that add up, those with the largest remainders rounded up."""
    percents = {name: int(100 * share) for name, share in shares.items()}
    rest = sorted(shares, key=lambda name: percents[name] - 100 * shares[name])
    for name in rest[:max(0, total - sum(percents.values()))]:
        percents[name] += 1
    return percents


def what_stays(frozen: Sequence[CoupledChannels], macs: Mapping[str, int]) -> List[str]:
    """Return a line for each group of channels that stays, those in the most multiply-adds first.

    Args:
        frozen (list[CoupledChannels]): The groups; those of inputs and outputs come last.
        macs (dict[str, int]): Layer -> multiply-adds.
    """
    def weight(channels: CoupledChannels) -> int:
        layers = {member.axis.layer for member in [*channels.producers, *channels.consumers]}
        return sum(macs.get(layer, 0) for layer in layers)

    inner = [channels for channels in frozen if category(str(channels.reason)) != INPUT_OR_OUTPUT]
    order = sorted(inner, key=weight, reverse=True) or list(frozen)
    lines = [f'{channels.name}: {channels.reason}' for channels in order[:MOST]]
    if len(order) > MOST:
        lines.append(f'... and {len(order) - MOST} more')
    if any(category(str(channels.reason)) == LINEAR for channels in frozen):
        lines.append('mutate_linear=True prunes what linear layers read and produce')
    return lines or ['it calls no conv or linear layer']
