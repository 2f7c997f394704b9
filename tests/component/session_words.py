"""What is said in the tests of inbound sessions, by both sides."""

from __future__ import annotations

BEGIN = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
LONG = b"more than a session keeps before it begins to store\r\n" * 1500
BEGUN = "250 2.1.0 Ok\n250 2.1.5 Ok\n354 End data with <CR><LF>.<CR><LF>\n"
QUEUED = "250 2.0.0 Ok: queued as 0000000000001\n"
BYE = "221 2.0.0 mx.test closing the connection\n"
TIMED_OUT = "421 4.4.2 timeout: closing the connection\n"
SHUTTING_DOWN = "421 4.3.2 the service is shutting down, please try again\n"
NO_ROOM = "452 4.3.1 insufficient system storage, please try again later\n"
STAMP = (
    b"Received: from client.example ([10.0.0.1])\r\n\tby mx.test (Postroika) with ESMTP id 0000000000001\r\n"
    b"\tfor <c@d.example>; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
)
