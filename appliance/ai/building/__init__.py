"""Makes the model engine for this machine: llama.cpp compiled for its CPU, and the libraries that come as wheels.

It lies in the data folder, in ``models/engine``, so that it is made without any right to the program's own folder, goes
along when the data folder is copied, and is gone when that is deleted.
"""
