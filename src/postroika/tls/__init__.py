"""TLS, apart from sockets and loops: the engine that turns octets into octets, and what it has found out."""
