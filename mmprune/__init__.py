"""mmprune: config-driven structural pruning for OpenMMLab models and plain PyTorch networks."""
from .requirement import check_versions
from .version import __version__

check_versions()

__all__ = ['__version__']
