"""From the listener to the spool."""
