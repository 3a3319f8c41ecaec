"""MarketPrism Ray: a collector of crypto market data that proves its data is complete.

The library. It never imports ray and works alone: decode, books, sinks, replay, simulate.
Everything that needs Ray lives in the package ``actors``.
"""

__version__ = "0.1.0"
