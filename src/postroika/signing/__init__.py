"""DKIM (RFC 6376, RFC 8301, RFC 8463): what goes out is signed, or does not go out.

Promise: mail for which a key is configured is never sent unsigned. A key that cannot be used refuses the start; if it
breaks later, its mail is deferred and says why.

`key` reads and uses a private key; `ring` finds the keys for a message; `field` makes the signature fields; `hands` are
the threads that do it; `signer` is what delivery asks. `record` writes the keys' DNS records, `verify` looks at the
signatures of a message as a receiver does.
"""
