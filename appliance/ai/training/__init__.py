"""The training workshop, of the extra ``flowork[train]``: data sets, LoRA, GGUF files, and comparing two models.

Nothing of the running engine imports it; ``flowork train`` does.
"""
