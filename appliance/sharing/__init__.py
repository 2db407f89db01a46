"""What the machines of one cluster share beside the database: a bus between processes, limits, leases, homes of flows.

Nothing in here is imported by an engine on one machine. Why it is as it is: ``docs/decisions/sharing.md``.
"""
