"""Models of transformers: the cuts travel in their config, so that a folder of a pruned one loads by one line.

``config.json`` describes the dense network, and the cuts that lead from it to the weights beside it.
"""
import os
from pathlib import Path
from typing import Any, Optional, Type, Union

from torch import nn

from ..arguments import UserError, optional_package, typed
from ..models.checkpoint_file import CheckpointError, first_line
from ..units.structure import StructureError
from .record import (
    KEY,
    Folder,
    Source,
    check_record,
    check_same,
    inputs_of,
    new_record,
    read_record,
    rebuild,
    whole_folder,
    write_beside,
)

#: The weights are called ``model.pruned.safetensors``: who reads the config alone finds none that he could mistake for
#: those of the dense network.
VARIANT = 'pruned'


@typed
def describe(source: Source) -> nn.Module:
    """Let the config of a cut model of transformers say how it was cut, and return the model.

    From then on ``config.mmprune`` travels with every ``save_pretrained``, those of a ``Trainer`` included. All else
    in the config is that of the dense network, which is built from it before it is cut.

    Args:
        source (Pruner or PruningAlgorithm): What has cut a ``PreTrainedModel``.

    Raises:
        UserError: The model is masked only, or is none of transformers.
    """
    transformers = optional_package('transformers')
    model = source.mutator.model
    if not isinstance(model, transformers.PreTrainedModel):
        raise UserError(f'this {type(model).__name__} is no model of transformers: it has no config to be built from')
    setattr(model.config, KEY, new_record(source, getattr(model.config, KEY, None)))
    return model


@typed
def save_pruned(model: Union[nn.Module, Source], folder: Folder) -> None:
    """Write a cut model to a folder from which :func:`load_pruned` makes the same one; that is checked.

    Args:
        model (PreTrainedModel or Pruner): A model after :func:`describe`, or what has cut it.
        folder (str): It is made. Each file appears whole or not at all.

    Raises:
        UserError: The model says nothing of its structure, or is another one than its config describes.
    """
    if not isinstance(model, nn.Module) or hasattr(model, 'mutator'):
        model = describe(model)
    record = check_record(getattr(getattr(model, 'config', None), KEY, None), f'this {type(model).__name__}')
    with whole_folder(folder) as place:
        model.save_pretrained(place, variant=VARIANT)  # type: ignore[operator]
        write_beside(record, place)
        check_same(model, load_pruned(place, type(model)), inputs_of(record))


@typed
def load_pruned(folder: Folder, model_class: Optional[Type[nn.Module]] = None) -> nn.Module:
    """Return the model that :func:`save_pruned` wrote to a folder, in eval mode; nothing is downloaded.

    A checkpoint of a ``Trainer`` whose model was described before the training loads, too.

    Args:
        folder (str): The folder.
        model_class (type, optional): The class of the model, where it is none of transformers itself.

    Raises:
        StructureError: The folder holds no pruned model, or one of another transformers.
        CheckpointError: Its weights are missing, damaged, or of another model.
    """
    transformers = optional_package('transformers')
    record = read_record(folder)
    config = transformers.AutoConfig.from_pretrained(os.fspath(folder), local_files_only=True)
    kind = model_class or getattr(transformers, (config.architectures or [''])[0], None)
    if kind is None:
        raise StructureError(f'{os.fspath(folder)!r} holds a {config.architectures}, which transformers does not have; '
                             'give load_pruned its class')
    model = rebuild(kind(config), record)
    weights = model.state_dict()
    constants = {name: buffer.clone() for name, buffer in model.named_buffers() if name not in weights}
    model.to(config.dtype or model.dtype)

    class Ready(kind):  # type: ignore[valid-type, misc]
        """Stands for the class while its weights are loaded: the model is there, and has the shapes of the weights."""

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            return model

    variant = VARIANT if any(Path(folder).glob(f'*.{VARIANT}*')) else None
    try:
        model, found = Ready.from_pretrained(os.fspath(folder), config=config, variant=variant, local_files_only=True,
                                             output_loading_info=True)
    except (OSError, RuntimeError, ValueError, optional_package('safetensors').SafetensorError) as error:
        raise CheckpointError(f'folder: the weights in {os.fspath(folder)!r} cannot be read ({first_line(error)})'
                              ) from None
    if found['missing_keys']:
        raise CheckpointError(f'folder: the weights in {os.fspath(folder)!r} lack {len(found["missing_keys"])} of the '
                              f'model, such as {sorted(found["missing_keys"])[0]!r}')
    for parameter in model.parameters():  # where they lie in the file, sums may be formed in another order
        parameter.data = parameter.data.clone()
    for name, buffer in constants.items():  # from_pretrained takes a model to be empty, and gives them no values
        owner, _, last = name.rpartition('.')
        model.get_submodule(owner)._buffers[last] = buffer
    return model
