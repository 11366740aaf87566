"""The version of the package, and the versions of torch and mmengine that it runs on; setup.py reads both."""
import importlib
from importlib import metadata
from typing import Optional, Tuple

__version__ = '0.1.0'

TORCH = ((2, 0), (2, 15))
MMENGINE = ((0, 10), (0, 11))
HINT = 'tools/setup_env.sh, in a checkout, installs versions that were tested together; see docs/install.md'


def _version(module: str, *packages: str) -> Optional[str]:
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    try:  # a fork or a build under another name
        return importlib.import_module(module).__version__
    except (ImportError, AttributeError):
        return None


def _numbers(version: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in version.split('+')[0].split('.')[:2] if part.isdigit())


def wanted(bounds: Tuple[Tuple[int, int], Tuple[int, int]]) -> str:
    """Return the least version that will do, and the first that will not, as pip writes them.

    Args:
        bounds (tuple): :data:`TORCH` or :data:`MMENGINE`.
    """
    low, high = ('.'.join(map(str, bound)) for bound in bounds)
    return f'>={low},<{high}'


def check_versions() -> None:
    """Raise ImportError if torch or mmengine is missing or out of range; the message says what to install."""
    for name, packages, bounds in (('torch', ('torch',), TORCH),
                                   ('mmengine', ('mmengine', 'onedl-mmengine', 'mmengine-lite'), MMENGINE)):
        version, needs = _version(name, *packages), name + wanted(bounds)
        if version is None:
            raise ImportError(f'mmprune needs {needs}, which is not installed: pip install "{needs}"; ' + HINT)
        if not bounds[0] <= _numbers(version) < bounds[1]:
            raise ImportError(f'mmprune needs {needs}, but {version} is installed: pip install "{needs}"; ' + HINT)
