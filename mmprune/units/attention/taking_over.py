"""Modules of known classes run the forward that is written here, from the trace on, and get their own one back.

Only the class of an object changes: parameters, keys, hooks, optimizers and whoever holds the module keep what they
have.
"""
from typing import Any, Callable, Dict, Iterable, Optional, Tuple, Type, Union

from torch import nn

from .norm import (
    FormatStreamNorm,
    LayoutStreamNorm2d,
    StreamMapNorm,
    StreamNorm,
    StreamNorm2d,
    StreamNormAct,
    StreamNormAct2d,
    StreamRMSNorm,
    StreamRMSNorm2d,
    is_over_channels,
)

#: ``package.Class`` or ``package.module.Class`` -> the class whose forward such modules run.
ATTENTIONS: Dict[str, Type['PrunableAttention']] = {}
#: ``package.Class`` of norms -> the norm of a stream that does the same.
NORMS: Dict[str, Type[Union[StreamNorm, StreamRMSNorm]]] = {
    'torch.LayerNorm': StreamNorm, 'timm.LayerNorm': StreamNorm, 'timm.LayerNorm2d': StreamNorm2d,
    'timm.LayerNormFp32': StreamNorm, 'timm.LayerNorm2dFp32': StreamNorm2d, 'timm.LayerNormAct': StreamNormAct,
    'timm.LayerNormAct2d': StreamNormAct2d, 'timm.LayerNormNoBias': StreamNorm, 'timm.LayerNorm2dNoBias': StreamNorm2d,
    'timm.GroupNorm1': StreamMapNorm, 'timm.GroupNorm1NoBias': StreamMapNorm, 'timm.RmsNorm': StreamRMSNorm,
    'timm.RmsNormFp32': StreamRMSNorm, 'timm.RmsNorm2d': StreamRMSNorm2d,
    'torchvision.LayerNorm2d': StreamNorm2d, 'mmpretrain.LayerNorm2d': LayoutStreamNorm2d,
    'mmcls.LayerNorm2d': LayoutStreamNorm2d,
    **dict.fromkeys([f'transformers.{name}LayerNorm' for name in ('ConvNext', 'ConvNextV2', 'DINOv3ConvNext')],
                    FormatStreamNorm),
    **dict.fromkeys([f'transformers.{name}RMSNorm' for name in (
        'Llama', 'Mistral', 'Mixtral', 'Qwen2', 'Qwen3', 'Phi3', 'SmolLM3')], StreamRMSNorm)}


class PrunableAttention(nn.Module):
    """The forward of an attention whose sizes are those of its :class:`~.product.AttentionProduct`.

    A subclass is registered for the classes whose ``__init__`` made the module. It has a ``forward`` with their
    arguments and results, and reads sizes from ``self.product`` and from the shapes of weights alone.

    Attributes:
        adds (tuple[str]): Modules that it begins with, of which the class of the module knows nothing.
    """

    adds: Tuple[str, ...] = ('product', )

    def unfit(self) -> Optional[str]:
        """Return what about this module the forward here does not do, None where it does all; called before begin."""
        return None

    def begin(self) -> None:
        """Set ``self.product`` to the sizes of the dense module; one that is around attentions has none."""


def register_attention(*names: str) -> Callable[[Type[PrunableAttention]], Type[PrunableAttention]]:
    """Register what modules of a class run.

    Args:
        names (str): Package and name of the class, as ``timm.RelPosAttention``, or, where a package has several of
            a name, its module, too: ``timm.models.beit.Attention``.
    """

    def add(cls: Type[PrunableAttention]) -> Type[PrunableAttention]:
        ATTENTIONS.update(dict.fromkeys(names, cls))
        return cls

    return add


_MADE: Dict[Any, Type[nn.Module]] = {}


def _made(plain: Type[nn.Module], ours: Type[nn.Module]) -> Type[nn.Module]:
    """Return the class of modules that run our forward and have the attributes of their own class."""
    if (plain, ours) not in _MADE:
        _MADE[plain, ours] = type(f'{ours.__name__}Of{plain.__name__}', (ours, plain), {'__reduce_ex__': _reduce})
    return _MADE[plain, ours]


def _reduce(module: nn.Module, protocol: int) -> Any:
    ours, plain = type(module).__bases__
    return _empty, (plain, ours), module.__dict__


def _empty(plain: Type[nn.Module], ours: Type[nn.Module]) -> nn.Module:
    made: Any = _made(plain, ours)
    return made.__new__(made)  # type: ignore[no-any-return]


def plain_class(module: nn.Module) -> Type[nn.Module]:
    """Return the class that a module had before it was taken over."""
    return type(module).__bases__[1]


def key_of(cls: Type[nn.Module]) -> str:
    """Return the package and the name of a class."""
    return f'{cls.__module__.partition(".")[0]}.{cls.__name__}'


def forward_for(module: nn.Module, attention: bool = True, norms: bool = True) -> Optional[Type[nn.Module]]:
    """Return the class whose forward a module can run, or None.

    Args:
        module (nn.Module): Any module.
        attention (bool): Among attentions.
        norms (bool): Among layer norms over channels.
    """
    if isinstance(module, (PrunableAttention, StreamNorm, StreamRMSNorm)):
        return None
    key = key_of(type(module))
    if norms and key in NORMS:
        return NORMS[key] if is_over_channels(module) else None
    ours = _attention_for(module) if attention else None
    return None if ours is None or ours.unfit(module) is not None else ours  # type: ignore[arg-type]


def _attention_for(module: nn.Module) -> Optional[Type[PrunableAttention]]:
    kind = type(module)
    return ATTENTIONS.get(f'{kind.__module__}.{kind.__name__}', ATTENTIONS.get(key_of(kind)))


def why_unfit(module: nn.Module) -> Optional[str]:
    """Return why an attention of a known class keeps its own forward, None of any other module."""
    ours = None if isinstance(module, PrunableAttention) else _attention_for(module)
    return None if ours is None or not ours.adds else ours.unfit(module)  # type: ignore[arg-type]


def take_over(modules: Iterable[nn.Module]) -> None:
    """Let modules of known classes run the forward that is here; see :func:`forward_for`."""
    for module in modules:
        ours = forward_for(module)
        assert ours is not None
        module.__class__ = _made(type(module), ours)
        module.begin()  # type: ignore[operator]
        for name in [name for name in getattr(ours, 'adds', ()) if name in module._modules]:
            own = next(module.parameters(), None)
            module.get_submodule(name).to(None if own is None else own.device).train(module.training)


def give_back(modules: Iterable[nn.Module]) -> None:
    """Give modules the class back that they had; what they began with goes."""
    for module in modules:
        for name in getattr(type(module), 'adds', ()):
            module._modules.pop(name, None)
        module.__class__ = plain_class(module)
        module.__dict__.pop('dense_width', None)
