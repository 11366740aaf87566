"""A config and a checkpoint become a model that is ready to export."""
import copy
import math
from typing import Any, Dict, Mapping, Optional, Tuple

import torch
from mmengine.config import ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from torch import nn

from ..config import plain
from ..graph.demo_input import DemoInput
from ..graph.detector_inputs import demo_input_of
from ..graph.input_shape import shape_or_test_input
from ..models.checkpoint import load_weights
from ..registry import MODELS, TASK_UTILS, build
from ..units.equivalence import randomise
from ..units.structure import StructureError

RANDOM = 'none'  # as the checkpoint argument of the tools: random weights
LARGE = 512 * 512  # pixels of a large image


def load_model(cfg: Mapping[str, Any], checkpoint: str, device: str = 'cpu') -> nn.Module:
    """Build the model of a config, load its checkpoint and switch it to deployment.

    Args:
        cfg (Config): A deploy, finetune or plain config; ``divisor`` padding happens after loading.
        checkpoint (str): File or URL; ``none`` gives random weights that keep activations in a usual range.
        device (str): Device of the model.

    Returns:
        nn.Module: The model in eval mode.

    Raises:
        CheckpointError: The checkpoint is missing, unreadable or of another model.
        StructureError: The config is that of a prune run, whose model has no final structure.
    """
    kind = type_name(cfg['model'])
    if kind in ('GroupFisherAlgorithm', 'PruningAlgorithm'):
        raise StructureError('this is a prune config; export the finetuned model with a deploy config, whose model is '
                             'mmprune.GroupFisherDeploySubModel')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    model_cfg = plain(cfg['model'])
    if cfg.get('data_preprocessor') is not None:
        model_cfg.setdefault('data_preprocessor', plain(cfg['data_preprocessor']))
    model = revert_sync_batchnorm(MODELS.build(ConfigDict(model_cfg)))  # detectors read test_cfg.nms_pre
    if checkpoint == RANDOM:
        fill_randomly(model, demo_input(cfg))
    else:
        load_weights(model, checkpoint)
    if callable(getattr(model, 'switch_to_deploy', None)):
        model.switch_to_deploy()
    return model.to(device).eval()


def type_name(cfg: Mapping[str, Any]) -> str:
    """Return the type of a config without its scope."""
    return str(cfg['type']).split('.')[-1]


def fill_randomly(model: nn.Module, demo: DemoInput, seed: int = 0) -> None:
    """Give every layer random weights, and batch norms the statistics of a random batch; the training mode is kept.

    Activations then stay in a usual range, where outputs can be compared; residual sums that are not normalised would
    saturate every softmax. The batch has four samples of the demo input's shape, two if they are large.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                deviation = (2.0 / parameter[0].numel()) ** 0.5
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
        randomise(model, seed)
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        momenta, training = [norm.momentum for norm in norms], model.training
        model.train()
        for norm in norms:
            norm.train()  # a backbone with norm_eval keeps its norms in eval mode
            norm.reset_running_stats()
            norm.momentum = None  # the mean over batches, here a single batch
        size = demo.input_shape[1:]
        demo.with_shape((2 if math.prod(size[1:]) > LARGE else 4, *size))(model)
        model.train(training)
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            # a channel that hardly varies in this batch must not be blown up
            norm.running_var.clamp_(min=0.1 * float(norm.running_var.mean()))


def input_shape(cfg: Mapping[str, Any]) -> Tuple[int, ...]:
    """Return the shape ``(1, C, H, W)`` that the costs of a deploy config are counted for."""
    shape = (cfg['model'].get('demo_input') or {}).get('input_shape') or cfg.get('input_shape')
    return shape_or_test_input(tuple(shape) if shape else None, cfg)


def demo_input(cfg: Mapping[str, Any]) -> DemoInput:
    """Return the demo input of a deploy config, or that of the model of a plain one."""
    own = plain(cfg['model'].get('demo_input') or demo_input_of(cfg['model'], input_shape(cfg)))
    return build(TASK_UTILS, own)


def with_divisor(cfg: Mapping[str, Any], divisor: Optional[int]) -> Dict[str, Any]:
    """Return a deploy config with another divisor, or, for None, the config of its dense model.

    Raises:
        StructureError: The config is not a deploy config.
    """
    model = plain(cfg['model'])
    if type_name(model) != 'GroupFisherDeploySubModel':
        raise StructureError(f'the model of this config is {model["type"]!r}; a deploy config has '
                             'mmprune.GroupFisherDeploySubModel')
    other = {key: copy.deepcopy(value) for key, value in cfg.items() if key != 'model'}
    other['model'] = model['architecture'] if divisor is None else dict(model, divisor=divisor)
    other['input_shape'] = input_shape(cfg)
    return other
