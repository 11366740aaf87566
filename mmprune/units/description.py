"""The units of a model, and the channels that stay, as plain values."""
from typing import Any, Dict, List, Sequence

from ..graph.channels import Member
from .mutator import ChannelMutator


def describe(mutator: ChannelMutator) -> Dict[str, List[Dict[str, Any]]]:
    """Return the units and the frozen channels as plain values.

    Args:
        mutator (ChannelMutator): Prepared on a model.

    Returns:
        dict[str, list[dict]]: ``units``: ``name``, ``channels``, ``tied`` (channels of a set), ``producers``,
        ``consumers`` (names of layers), and what a set costs: ``channel_acts``, ``channel_macs``; ``frozen``: ``name``,
        ``channels``, ``reason``, ``producers``, ``consumers``.
    """
    complexity, widths = mutator.complexity, mutator.widths
    units = []
    for unit in mutator.units:
        channels = unit.channels
        units.append(dict(
            name=unit.name, channels=unit.width, tied=unit.multiplicity, producers=_layers(channels.producers),
            consumers=_layers(channels.consumers), channel_acts=complexity.channel_acts(channels),
            channel_macs=complexity.channel_macs(channels, widths)))
    frozen = [dict(name=channels.name, channels=channels.width, reason=channels.reason,
                   producers=_layers(channels.producers), consumers=_layers(channels.consumers))
              for channels in mutator.frozen]
    return dict(units=units, frozen=frozen)


def _layers(members: Sequence[Member]) -> List[str]:
    return list(dict.fromkeys(member.axis.layer for member in members))
