"""Settling attempts: records, events, delivery status notifications."""
