"""The durable queue: one LMDB environment a worker."""
