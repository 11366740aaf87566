"""Telling other code bases about our models, without importing them: only what is loaded already is told."""
import importlib
import sys

#: package -> our module that, when imported, registers what the package has to know
PLUGINS = {'mmdeploy': 'mmprune.deploy.mmdeploy_plugin'}


def load_plugins() -> None:
    """Import the plug-in of every package that is loaded; called wherever a deploy config or model comes to life."""
    for package, plugin in PLUGINS.items():
        if package in sys.modules:
            importlib.import_module(plugin)
