"""Child processes that can really be ended: scripts, commands, and blocking libraries kept out of the kernel."""

from appliance.sandbox.process import ProcessSandbox

__all__ = ["ProcessSandbox"]
