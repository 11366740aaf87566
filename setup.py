"""Install mmprune; the OpenMMLab packages are the user's own choice (see requirements/).

Configs and tools lie in mmprune/.mim, as in every OpenMMLab package, so that ``mmprune::mmcls/...`` names a config:
copies in what is built, links to the checkout where it is installed editable.
"""
import os
import shutil
import sys
import tempfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = ('configs', 'tools', 'model-index.yml')
#: Scripts for a checkout only.
NOT_SHIPPED = ('__pycache__', '*.pyc', 'setup_env.sh', 'mmcv_wheel.sh', 'run_tests.sh', 'check_wheel.sh',
               'quickstart.*')


def read(name: str) -> str:
    """Return the text of a file beside this one."""
    return (ROOT / name).read_text(encoding='utf-8')


def link_mim() -> None:
    """Link mmprune/.mim to the checkout, for an editable install."""
    folder = ROOT / 'mmprune' / '.mim'
    folder.mkdir(exist_ok=True)
    for name in SHIPPED:
        link = folder / name
        if link.is_symlink():
            link.unlink()
        link.symlink_to(os.path.relpath(ROOT / name, folder))


class Build(build_py):
    """Copies configs and tools along; an editable install links them."""

    def run(self) -> None:
        """Build."""
        super().run()
        if getattr(self, 'editable_mode', False):
            link_mim()
        else:
            self.copy_mim()

    def copy_mim(self) -> None:
        """Copy what links would lead to, into the folder that becomes the wheel."""
        folder = Path(self.build_lib) / 'mmprune' / '.mim'
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in SHIPPED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(*NOT_SHIPPED))
            else:
                shutil.copy2(ROOT / name, folder / name)


VERSION: dict = {}
exec(read('mmprune/version.py'), VERSION)  # not imported: that would need torch
MMENGINE = VERSION['wanted'](VERSION['MMENGINE'])

if 'develop' in sys.argv:  # how old pips install editable
    link_mim()
with tempfile.TemporaryDirectory() as build:  # nothing of an earlier build gets in, nothing of this one stays
    setup(
        name='mmprune',
        version=VERSION['__version__'],
        description='Config-driven structural pruning for OpenMMLab and plain PyTorch networks',
        long_description=read('README.md'),
        long_description_content_type='text/markdown',
        license='Apache-2.0',
        packages=find_packages(include=['mmprune', 'mmprune.*']),
        python_requires='>=3.8',
        install_requires=read('requirements.txt').split(),
        # one of the two, which share the module mmengine and must not be installed together
        extras_require={'mmengine': [f'mmengine{MMENGINE}'], 'onedl': [f'onedl-mmengine{MMENGINE}']},
        entry_points={'console_scripts': ['mmprune = mmprune.commands:main']},
        cmdclass={'build_py': Build},
        options={'build': {'build_base': build}},
    )
