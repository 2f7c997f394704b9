"""Why the content of a message is refused. Who sees it is `kernels.server_lane.BodyReader`.

Promise: never for a reason that the sender could not understand.
"""

from __future__ import annotations

from postroika.mail.reply import reply

# RFC 5321 §2.3.8 forbids CR and LF apart from each other; whoever passes them on lets two servers see two messages.
BARE_LF = reply(550, "5.6.0", "message has a bare LF: each line must end with CR LF (RFC 5321 section 2.3.8)")
BARE_CR = reply(550, "5.6.0", "message has a bare CR: each line must end with CR LF (RFC 5321 section 2.3.8)")
HAS_NUL = reply(550, "5.6.0", "message has a NUL octet: encode it, or use BINARYMIME (RFC 5321 section 4.5.2)")
TOO_LARGE = reply(552, "5.3.4", "message is too large")
HEADER_TOO_LARGE = reply(552, "5.3.4", "message header is too large")
LOOP = reply(554, "5.4.6", "too many hops: the mail goes in circles")
REFUSALS = (HAS_NUL, BARE_LF, BARE_CR, TOO_LARGE, LOOP, HEADER_TOO_LARGE)
