"""Simulated venues: the server side of the real wire protocols on loopback, over a seeded market with a truth ledger.

``market`` makes events and remembers all of them; ``wire`` carries frames to sockets and injects faults; ``binance``
and ``okx`` speak each house's protocol; ``server`` puts them on one port; ``process`` runs it all as a child process.
"""
