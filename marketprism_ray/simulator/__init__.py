"""Simulated venues: the server side of the real wire protocols on loopback, over a seeded market with a truth ledger.

``market`` makes events and remembers all of them; ``unrest`` is what befalls instruments; ``wire`` carries frames to
sockets and injects faults; ``rules`` says what is demanded of a socket; ``truth`` keeps what was said; ``binance``,
``okx`` and ``deribit`` speak each house's protocol; ``server`` puts them on one port; ``process`` runs it all as a
child process.
"""
