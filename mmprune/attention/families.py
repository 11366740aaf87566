"""The forwards of all known attentions: importing this registers them."""
from . import timm  # noqa: F401
