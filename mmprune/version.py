"""The version of the package, and the versions of torch and mmengine that it runs on; setup.py reads both."""
from importlib import metadata
from typing import Optional, Tuple

__version__ = '0.1.0'

TORCH = ((2, 0), (2, 14))
MMENGINE = ((0, 10), (0, 11))
HINT = 'see requirements/full.txt (torch 2.0.1, the whole OpenMMLab stack) or requirements/light.txt (newest torch)'


def _version(*packages: str) -> Optional[str]:
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return None


def _numbers(version: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in version.split('+')[0].split('.')[:2] if part.isdigit())


def check_versions() -> None:
    """Raise ImportError if torch or mmengine is missing or out of range; the message says what to install."""
    for name, packages, (low, high) in (('torch', ('torch',), TORCH),
                                        ('mmengine', ('mmengine', 'onedl-mmengine', 'mmengine-lite'), MMENGINE)):
        version = _version(*packages)
        wanted = f'>={".".join(map(str, low))},<{".".join(map(str, high))}'
        if version is None:
            raise ImportError(f'mmprune needs {name}{wanted}, which is not installed: pip install "{name}{wanted}"; '
                              + HINT)
        if not low <= _numbers(version) < high:
            raise ImportError(f'mmprune needs {name}{wanted}, but {version} is installed: '
                              f'pip install "{name}{wanted}"; ' + HINT)
