"""Pure words of mail: addresses, replies, envelopes, outcomes, trace fields, ids. No I/O."""
