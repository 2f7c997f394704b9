"""Postroika: a mail transfer agent for people who send a lot of mail."""

__version__ = "0.1.0"
