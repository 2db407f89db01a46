"""What agent and appliance say to each other, and how: the only part of the agent that the appliance knows.

It imports nothing of either side. ``messages`` are the words, ``channel`` carries them, ``certificates`` and
``pairing`` are who may speak, ``discovery`` is how the two find each other.
"""
