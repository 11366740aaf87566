"""Install mmprune; the OpenMMLab packages are the user's own choice (see requirements/)."""
import re
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
version = re.search(r"__version__ = '(.+)'", (root / 'mmprune' / 'version.py').read_text()).group(1)

setup(
    name='mmprune',
    version=version,
    description='Config-driven structural pruning for OpenMMLab and plain PyTorch networks',
    long_description=(root / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=find_packages(include=['mmprune', 'mmprune.*']),
    python_requires='>=3.8',
    install_requires=(root / 'requirements.txt').read_text().split('\n'),
)
