"""The pruning schema of Network Slimming: which norm decides about the channels of each layer, as a file to edit.

The format is that of pytorch-network-slimming: ``prefix`` (of all names), ``modules`` (conv and linear layers with the
norm before and after them, or an empty name), ``shortcuts`` (norms whose channels are kept or removed together, with
``or`` to keep a channel that any of them keeps, ``and`` to keep what all of them keep).
"""
import os
from typing import Any, Dict, List, Mapping, NamedTuple, Union

from torch import nn

from ..arguments import UserError, nearest
from ..files import read_json, write_json
from ..graph.channels import CoupledChannels, Member
from ..units.mutator import ChannelMutator
from .bn_sparsity import SCALED_NORMS

Schema = Dict[str, Any]
METHODS = ('or', 'and')


class SchemaError(UserError):
    """A schema is invalid or does not fit the model; the message says where."""


class NormVote(NamedTuple):
    """Which norms decide about a unit, and how."""

    norms: List[str]  # their names
    method: str  # or, and


def norms_of(model: nn.Module, channels: CoupledChannels) -> List[Member]:
    """Return the members of a unit that are the scale of a norm, in the order of the forward pass."""
    return [member for member in channels.members if member.axis.tensor.endswith('.weight')
            and isinstance(model.get_submodule(member.axis.layer), SCALED_NORMS)]


def make_schema(mutator: ChannelMutator, prefix: str = '') -> Schema:
    """Return the schema of a model that does what Network Slimming does by default.

    Args:
        mutator (ChannelMutator): Prepared on the model.
        prefix (str): What all names begin with, such as ``backbone.``; layers elsewhere are left out.

    Raises:
        SchemaError: No layer has the prefix.
    """
    layers = {member.axis.layer: dict(prev_bn='', next_bn='') for unit in mutator.units
              for member in (*unit.channels.producers, *unit.channels.consumers)}
    shortcuts = []
    for unit in mutator.units:
        norms = [member.axis.layer for member in norms_of(mutator.model, unit.channels)]
        producer, norm = '', ''
        for member in unit.channels.members:  # in the order of the forward pass
            layer, role = member.axis.layer, member.axis.role
            if layer in norms and member.axis.tensor.endswith('.weight'):
                norm = layer
                if producer:
                    layers[producer]['next_bn'] = layers[producer]['next_bn'] or norm
            if role in ('in', 'depthwise'):
                layers[layer]['prev_bn'] = norm
            if role in ('out', 'depthwise'):
                producer = layer
        if len(norms) > 1:
            shortcuts.append(norms)
    calls = [call.layer for call in mutator.complexity.graph.calls]
    inside = [{'name': name[len(prefix):], **{key: norm[len(prefix):] for key, norm in layers[name].items()}}
              for name in sorted(layers, key=calls.index) if name.startswith(prefix)]
    if not inside:
        raise SchemaError(f'prefix is {prefix!r}, and no layer of a unit begins with it')
    return dict(prefix=prefix, modules=inside, shortcuts=[
        dict(names=[name[len(prefix):] for name in names], method='or') for names in shortcuts
        if all(name.startswith(prefix) for name in names)])


def write_schema(schema: Schema, path: Union[str, 'os.PathLike[str]']) -> None:
    """Write a schema as json; the file appears whole or not at all."""
    write_json(schema, path)


def read_schema(source: Union[Mapping[str, Any], str, 'os.PathLike[str]']) -> Schema:
    """Return a schema from a dict or the path of a json file.

    Raises:
        SchemaError: The file is missing or no schema.
    """
    if isinstance(source, Mapping):
        schema: Any = dict(source)
    else:
        schema = read_json(source, 'schema', '; tools/pruning/write_schema.py writes one', SchemaError)
    if not isinstance(schema, dict) or not isinstance(schema.get('prefix', ''), str) or not all(
            isinstance(schema.get(key, []), list) for key in ('modules', 'shortcuts')) or 'modules' not in schema:
        raise SchemaError('schema: it must be an object with "prefix" (a text), "modules" (a list) and "shortcuts" (a '
                          'list)')
    for number, entry in enumerate(schema['modules']):
        if not isinstance(entry, dict) or 'name' not in entry or not _are_names(
                [entry.get(key, '') for key in ('name', 'prev_bn', 'next_bn')]):
            raise SchemaError(f'schema: modules[{number}] is {entry!r}; it must have "name", "prev_bn" and "next_bn"')
    for number, entry in enumerate(schema.get('shortcuts', [])):
        if not isinstance(entry, dict) or not _are_names(entry.get('names')):
            raise SchemaError(f'schema: shortcuts[{number}] is {entry!r}; it must have "names" and "method"')
        if entry.get('method', 'or') not in METHODS:
            raise SchemaError(f'schema: the method of shortcuts[{number}] is {entry["method"]!r}'
                              f'{nearest(entry["method"], METHODS)}; it must be "or" or "and"')
    return schema


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def votes_of(schema: Schema, mutator: ChannelMutator) -> Dict[str, NormVote]:
    """Return unit name -> the norms that decide about it by a schema.

    A unit has no entry where a layer that produces it is not among the modules or has no ``next_bn``, and where several
    norms scale it but no shortcut joins them.

    Raises:
        SchemaError: A name is not that of a layer or norm of the model, or a shortcut joins norms that are not coupled.
    """
    prefix = schema.get('prefix', '')
    next_norm = {prefix + entry['name']: entry.get('next_bn', '') for entry in schema['modules']}
    shortcuts = [NormVote([prefix + name for name in entry['names']], entry.get('method', 'or'))
                 for entry in schema.get('shortcuts', [])]
    modules = dict(mutator.model.named_modules())
    for name in [*next_norm, *(prefix + norm for norm in next_norm.values() if norm),
                 *(name for shortcut in shortcuts for name in shortcut.norms)]:
        if name not in modules:
            raise SchemaError(f'schema: the model has no module {name!r}{nearest(name, list(modules))}')
    votes: Dict[str, NormVote] = {}
    joined: List[NormVote] = []
    for unit in mutator.units:
        own = [member.axis.layer for member in norms_of(mutator.model, unit.channels)]
        shortcut = next((vote for vote in shortcuts if vote.norms and set(vote.norms) <= set(own)), None)
        joined += [] if shortcut is None else [shortcut]
        if not own or any(not next_norm.get(member.axis.layer) for member in unit.channels.producers):
            continue
        if len(own) == 1:
            votes[unit.name] = NormVote(own, 'or')
        elif shortcut is not None:
            votes[unit.name] = shortcut
    wrong = [shortcut for shortcut in shortcuts if shortcut not in joined and len(shortcut.norms) > 1]
    if wrong:
        raise SchemaError(f'schema: the shortcut of {", ".join(wrong[0].norms)} joins norms whose channels do not go '
                          'together in this model')
    return votes
