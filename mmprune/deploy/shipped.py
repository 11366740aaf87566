"""The deploy configs that come with mmprune."""
from pathlib import Path
from typing import Optional

from ..arguments import UserError

#: Scope of a config -> the deploy config for onnxruntime.
BY_SCOPE = {
    'mmcls': 'classification_onnxruntime_dynamic.py', 'mmpretrain': 'classification_onnxruntime_dynamic.py',
    'mmdet': 'detection_onnxruntime_dynamic.py', 'mmpose': 'pose-detection_simcc_onnxruntime_static.py',
    'mmseg': 'segmentation_onnxruntime_dynamic.py'}
PACKAGE = Path(__file__).resolve().parents[1]
#: Where configs are in an installed package, and in a checkout that is not installed.
PLACES = (PACKAGE / '.mim' / 'configs', PACKAGE.parent / 'configs')


def deploy_config_for(scope: Optional[str]) -> Path:
    """Return the deploy config of a code base.

    Args:
        scope (str): ``default_scope`` of the model's config.

    Raises:
        UserError: None comes with mmprune.
    """
    if scope not in BY_SCOPE:
        raise UserError(f'default_scope of the config is {scope!r}: mmprune has deploy configs for '
                        f'{", ".join(BY_SCOPE)}; name one of your own')
    configs = next((place for place in PLACES if (place / 'deploy').is_dir()), PLACES[0])
    return configs / 'deploy' / BY_SCOPE[scope]
