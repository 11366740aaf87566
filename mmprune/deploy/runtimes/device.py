"""Another device: its times come in files, nothing is measured here."""
from typing import Any

from ...arguments import UserError
from ...registry import RUNTIMES
from .runtime import Description, Runtime


@RUNTIMES.register_module()
class Device(Runtime):
    """A device that is not this machine, whose latency table is a file that ``mmprune latency-pack`` leads to.

    Args:
        threads (int): Not used: the table knows.
    """

    name = 'device'
    is_here = False

    def describe(self) -> Description:
        """Return nothing: whatever its table says holds."""
        return {}

    def version(self) -> str:
        """Return nothing."""
        return ''

    def device_name(self) -> str:
        """Return that it is elsewhere."""
        return 'elsewhere'

    def prepare(self, model: Any, x: Any, path: Any) -> Any:
        """Raise UserError: it is not here."""
        raise UserError("a device is not here to be measured: runtime=dict(type='Device', table='device.json') needs "
                        'the table that mmprune latency-pack and mmprune latency --measured make')
