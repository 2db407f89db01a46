"""The model gateway: from a model's name to an answer, over whichever upstream has it, within its bounds."""
