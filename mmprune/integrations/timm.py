"""Models of timm: what they state of their widths follows a cut, and a folder of a pruned one loads by one line.

The folder is like those of timm's own hub: ``config.json`` and ``pytorch_model.bin``, beside them ``fix_subnet.json``.
"""
import json
import os
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from torch import Tensor, nn

from ..arguments import MissingPackageError, UserError, optional_package, typed
from ..graph.attributes import unchanged_attributes
from ..graph.nested import output_tensors
from ..graph.watching import watched
from ..models.checkpoint import load_weights, save_whole
from ..units.modes import in_eval
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

WEIGHTS = 'pytorch_model.bin'
#: Attributes that state how wide what ``forward_features`` returns is, and what the classifier reads.
OF_FEATURES, OF_CLASSIFIER = ('num_features', 'embed_dim'), ('head_hidden_size',)
#: The same of a head that is a module of timm's own.
HEAD_OF_FEATURES, HEAD_OF_CLASSIFIER = ('in_features',), ('num_features', 'hidden_size')


def _library() -> Any:
    """Return timm.

    Raises:
        MissingPackageError: It is not installed, or does not remember yet what a model was created with.
    """
    timm = optional_package('timm')
    if not hasattr(timm.models, 'get_model_args'):
        raise MissingPackageError(f'timm {timm.__version__} does not remember what a model was created with: '
                                  'pip install "timm>=1.0.31"')
    return timm


@typed
def describe(source: Source) -> nn.Module:
    """Let a cut model of timm say what it is now, and return it.

    ``num_features``, ``head_hidden_size`` and the channels in ``feature_info`` become those of the cut model, so that
    ``reset_classifier`` and timm's feature extractors fit; ``model.mmprune`` keeps the structure for
    :func:`save_pruned`, also in copies of the model such as its average.

    Args:
        source (Pruner or PruningAlgorithm): What has cut a model of ``timm.create_model``.

    Raises:
        UserError: The model is masked only, is none of ``timm.create_model``, or has another shape than the one that
            would be created.
    """
    model = source.mutator.model
    record = new_record(source, getattr(model, KEY, None))
    example = _image(record)
    if example is not None and hasattr(model, 'forward_features'):
        Widths(_dense(model), example).follow(model)
    model.mmprune = record
    return model


@typed
def save_pruned(model: Union[nn.Module, Source], folder: Folder,
                model_args: Optional[Mapping[str, Any]] = None) -> None:
    """Write a cut model to a folder from which :func:`load_pruned` makes the same one; that is checked.

    Args:
        model (nn.Module or Pruner): A model after :func:`describe`, or what has cut it.
        folder (str): It is made. Each file appears whole or not at all.
        model_args (dict, optional): What ``timm.create_model`` was given, where timm does not remember it or json
            cannot hold it.

    Raises:
        UserError: The model says nothing of its structure, or is another one than ``timm.create_model`` makes.
    """
    timm = _library()
    if not isinstance(model, nn.Module) or hasattr(model, 'mutator'):
        model = describe(model)
    record = check_record(getattr(model, KEY, None), f'this {type(model).__name__}')
    with whole_folder(folder) as place:
        config = dict(_config(timm, model, dict(model_args or {}), place), mmprune=record)
        (place / 'config.json').write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')
        save_whole(model.state_dict(), str(place / WEIGHTS))
        write_beside(record, place)
        check_same(model, load_pruned(place), inputs_of(record))


def _config(timm: Any, model: nn.Module, model_args: Dict[str, Any], place: Path) -> Dict[str, Any]:
    """Return what timm writes into ``config.json`` of a folder; it has no words for extractors of features."""
    cfg = _cfg_of(model)
    if hasattr(model, 'num_features'):
        timm.models._hub.save_config_for_hf(model, str(place / 'config.json'), model_args=model_args)
        return dict(json.loads((place / 'config.json').read_text(encoding='utf-8')))
    pretrained = {key: value for key, value in cfg.items() if value is not None and key != 'architecture'}
    arguments = timm.models.get_model_args(model, model_args)
    return dict(architecture=cfg['architecture'], num_classes=0, model_args=arguments,
                pretrained_cfg=dict(pretrained, num_classes=0))


def _cfg_of(model: nn.Module) -> Mapping[str, Any]:
    cfg = getattr(model, 'pretrained_cfg', None)
    if not isinstance(cfg, Mapping) or not cfg.get('architecture'):
        raise UserError(f'this {type(model).__name__} is no model of timm.create_model: it has no pretrained_cfg with '
                        'the name of its architecture')
    return cfg


@typed
def load_pruned(folder: Folder) -> nn.Module:
    """Return the model that :func:`save_pruned` wrote to a folder, on the CPU, in eval mode; nothing is downloaded.

    Raises:
        StructureError: The folder holds no pruned model, or one of another timm.
        CheckpointError: Its weights are missing, damaged, or of another model.
    """
    timm = _library()
    record = read_record(folder)
    model = timm.create_model(f'local-dir:{os.fspath(folder)}').eval()
    widths = _widths(model, record)
    rebuild(model, record)
    if widths is not None:
        widths.follow(model)
    load_weights(model, str(Path(folder) / WEIGHTS), 'folder')
    model.mmprune = record
    return model


def _dense(model: nn.Module) -> nn.Module:
    """Return a dense model as the one that was cut, with other weights."""
    timm = _library()
    return timm.create_model(_cfg_of(model)['architecture'], **timm.models.get_model_args(model))


def _widths(model: nn.Module, record: Mapping[str, Any]) -> Optional['Widths']:
    example = _image(record)
    return None if example is None or not hasattr(model, 'forward_features') else Widths(model, example)


def _image(record: Mapping[str, Any]) -> Optional[Tensor]:
    """Return the first tensor that a model is called with."""
    return next(iter(output_tensors(inputs_of(record))), None)


class Widths:
    """What a dense model of timm states of its widths, and the shapes of the activations that these are widths of.

    Args:
        model (nn.Module): The dense model.
        image (Tensor[N, C, H, W]): What it is called with.
    """

    def __init__(self, model: nn.Module, image: Tensor) -> None:
        self.image = image
        self.shapes = self._measured(model)
        self.stated = {(part, name): vars(module)[name] for part, module, names in _stating(model) for name, _ in names
                       if type(vars(module).get(name)) is int}
        self.features = [dict(info) for info in _feature_info(model)]

    def follow(self, model: nn.Module) -> None:
        """Bring what a cut model states of its widths up to date.

        Raises:
            UserError: Its activations differ from the dense ones in more than their channels.
        """
        shapes = self._measured(model)
        for part, module, names in _stating(model):
            for name, what in names:
                if (part, name) in self.stated:
                    setattr(module, name, self._now(self.stated[part, name], what, shapes))
        for place, (info, dense) in enumerate(zip(_feature_info(model), self.features)):
            info['num_chs'] = self._now(dense['num_chs'], f'feature_info[{place}]', shapes)

    def _now(self, stated: int, what: str, shapes: Mapping[str, List[Tuple[int, ...]]]) -> int:
        """Return a width, or a multiple of one, of the dense model as it is in a cut one."""
        if what not in shapes or what not in self.shapes:
            return stated
        before, after = self.shapes[what], shapes[what]
        axes = {axis for old, new in zip(before, after) for axis in range(len(old)) if old[axis] != new[axis]}
        if not axes:
            return stated
        axis = axes.pop()
        old, new = (sum(shape[axis] for shape in several) for several in (before, after))
        if not axes and stated < old:  # the width of something else, such as of a first stage
            return stated
        if axes or stated * new % old:
            raise StructureError(f'{what} is {after} and was {before}: timm states {stated}, which cannot follow')
        return stated * new // old

    def _measured(self, model: nn.Module) -> Dict[str, List[Tuple[int, ...]]]:
        """Return the shapes of features, of what the classifier reads, and of what ``feature_info`` lists."""
        found: Dict[str, List[Tuple[int, ...]]] = {}
        modules = dict(model.named_modules())
        listed = [(f'feature_info[{place}]', info) for place, info in enumerate(_feature_info(model))
                  if info.get('module') in modules]
        before = [(what, modules[info['module']]) for what, info in listed if info.get('hook_type') == 'forward_pre']
        after = [(what, modules[info['module']]) for what, info in listed if info.get('hook_type') != 'forward_pre']

        def keep(what: str, value: Any) -> None:
            found[what] = [tuple(tensor.shape) for tensor in output_tensors(value)]

        image = self.image.to(next(model.parameters()))
        with unchanged_attributes(model), in_eval(model), \
                watched(before, before=lambda what, module, args, kwargs: keep(what, args)), \
                watched(after, after=lambda what, module, args, kwargs, out: keep(what, out)):
            features = model.forward_features(image)  # type: ignore[operator]
            keep('features', features)
            if hasattr(model, 'forward_head'):
                keep('classifier', model.forward_head(features, pre_logits=True))  # type: ignore[operator]
        return found


def _stating(model: nn.Module) -> List[Tuple[str, nn.Module, List[Tuple[str, str]]]]:
    """Return the modules that state widths, and by which attribute the width of what."""
    own = [(name, 'features') for name in OF_FEATURES] + [(name, 'classifier') for name in OF_CLASSIFIER]
    head = getattr(model, 'head', None)
    if not isinstance(head, nn.Module) or isinstance(head, nn.Linear):
        return [('', model, own)]
    of_head = [(name, 'features') for name in HEAD_OF_FEATURES] + [(name, 'classifier') for name in HEAD_OF_CLASSIFIER]
    return [('', model, own), ('head', head, of_head)]


def _feature_info(model: nn.Module) -> List[Dict[str, Any]]:
    """Return what a model lists of its stages, the dicts themselves."""
    listed = getattr(model, 'feature_info', None) or []
    return list(getattr(listed, 'info', listed))
