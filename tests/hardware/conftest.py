"""The fixtures of the drivers' tests serve here too."""

from tests.drivers.conftest import heard, host

__all__ = ["heard", "host"]
