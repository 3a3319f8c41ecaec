"""The server side of Deribit v2: ``house`` serves sockets, ``methods`` answers, both over ``listed`` and ``rows``."""
