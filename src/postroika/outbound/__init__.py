"""Attempts: from a batch to replies."""
