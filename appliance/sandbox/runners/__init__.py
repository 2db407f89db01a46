"""Programs that run inside the child processes, one per script language, and the guard.

They are started as files, by whatever interpreter the machine has (Python 3.9 or newer), and import nothing
of the engine.
"""
