"""The server side of OKX v5: ``house`` serves sockets, ``rest`` requests, both over ``figures`` and ``rows``."""
