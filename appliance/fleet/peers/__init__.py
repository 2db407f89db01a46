"""Peers: finding other engines, pairing with them, and one encrypted link with each that is paired.

:class:`appliance.fleet.peers.peers.Peers` is what the kernel holds; :mod:`appliance.contracts.peers` says what it does.
"""
