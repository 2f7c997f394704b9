"""From a domain to the hosts to try."""
