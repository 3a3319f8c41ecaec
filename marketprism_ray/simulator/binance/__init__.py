"""The server side of Binance: spot, USD-M and COIN-M futures, whose differences are the tables of ``markets``.

``sockets`` is a market as clients see it, ``beats`` what it sends by the clock, ``frames`` how it writes, ``figures``
its sums; ``rest``, ``polls`` and ``info`` answer requests, ``limits`` refuses them, ``desk`` holds what all of them
share.
"""

from marketprism_ray.simulator.binance.sockets import Binance

__all__ = ["Binance"]
