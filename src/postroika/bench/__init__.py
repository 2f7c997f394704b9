"""The harness: load, sink, peers."""
