"""Who may send what: ordered checks, first verdict wins."""
