"""SMTP as sans-IO state machines: bytes in, events and bytes out. Pure."""
