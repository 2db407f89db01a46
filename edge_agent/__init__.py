"""The edge agent: owns drivers on one machine, and knows nothing of the appliance but its protocol."""

__version__ = "0.1.0"
