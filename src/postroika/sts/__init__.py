"""MTA-STS (RFC 8461): domains publish over HTTPS which hosts take their mail, and that they do so over verified TLS.

Promise: delivery never fails for want of a policy, never waits for one that it knows, and heeds one that was fetched
until it expires, whatever anybody does to the DNS meanwhile.

`record` reads the TXT record that says that there is a policy, `policy` the policy itself; both are pure. `fetch` gets
it from its host. `store` keeps policies on disk, for all workers. `policies` is what delivery asks: it knows when to
look, to fetch and to keep. `diagnosis` tells an operator what all of it comes to for one domain.
"""
