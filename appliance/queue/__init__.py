"""The queue: the kernel's wake-ups and background tasks. The only package that imports huey.

The journal is the truth and the queue only says that there is something to do (docs/decisions/queue-storage.md).
"""

# Must come before any import of huey, see there.
from appliance.queue import drivers as drivers
