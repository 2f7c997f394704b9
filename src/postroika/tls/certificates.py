"""The certificates of our listeners: chosen by the name that the client asks for, and loaded anew when they change.

Promise: a connection gets the certificate that its files held when it was opened, a second ago at most. Files that
cannot be used any more (gone, half written, a key that does not fit yet) change nothing: what was loaded before stays,
and the operations log says so once for each change of them.

How: listeners with the same settings share all of this; otherwise each has a context for its own certificate and one
for each [[certificate]]; OpenSSL asks which one while it shakes hands. At most once a second a new connection looks at
the files' times and sizes. A new context knows nothing of the old one's session tickets, so nobody resumes a session
that began under other rules.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from postroika.config import Certificate, Config, Listener
from postroika.config.certificates import UnusableFileError, load_authorities, load_pair, not_valid
from postroika.config.named_files import is_copy, told
from postroika.tls.context import note_called, server_context
from postroika.tls.layer import TlsLayer

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_VERIFY = {"none": ssl.CERT_NONE, "request": ssl.CERT_OPTIONAL, "require": ssl.CERT_REQUIRED}

Stamp = tuple[tuple[int, int, int] | None, ...]


class Certificates:
    """Those of all listeners of a worker.

    Attributes:
        listeners: by number; None without TLS.

    Raises:
        ConfigError: files cannot be used; the text says which and why.
    """

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        # Ports 25, 587 and 465 have the same certificate as a rule: it is loaded, and told of, once.
        shared: dict[tuple[str, str, str, str], ListenerTls] = {}
        self.listeners: list[ListenerTls | None] = []
        for listener in config.listener:
            tls = None
            if listener.tls != "none":
                same = (listener.certificate, listener.key, listener.client_certificates, listener.client_ca)
                tls = shared.get(same)
                if tls is None:
                    tls = shared[same] = ListenerTls(listener, config.certificate, clock)
            self.listeners.append(tls)
        self._shared = list(shared.values())

    def reload(self) -> None:
        """Load all files anew, whether they seem to have changed or not."""
        for tls in self._shared:
            tls.reload()


class ListenerTls:
    """The server side of TLS at one listener, or at several that have the same settings.

    Args:
        listener: with TLS.
        more: certificates for other names.
        clock: seconds that only grow.

    Raises:
        ConfigError: files cannot be used.
    """

    def __init__(
        self, listener: Listener, more: Sequence[Certificate] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._look_at = clock() + _LOOK_EVERY_S
        self._default = _Loaded(listener.certificate, listener.key, listener, self._choose)
        self._more = [(entry, _Loaded(entry.certificate, entry.key, listener, self._choose)) for entry in more]
        self._named = {name: loaded for entry, loaded in self._more for name in entry.names}

    def layer(self) -> TlsLayer:
        """The server's end of a new connection."""
        at = self._clock()
        if at >= self._look_at:
            self._look_at = at + _LOOK_EVERY_S
            for loaded in (self._default, *(loaded for _, loaded in self._more)):
                loaded.look()
        return TlsLayer(self._default.context, server_side=True)

    def reload(self) -> None:
        """Load all files anew."""
        for loaded in (self._default, *(loaded for _, loaded in self._more)):
            loaded.load_again()

    def _choose(self, engine: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Change to the certificate for `name`: an `sni_callback`. Who asks for a name that we have not, or for none,
        gets that of the listener (RFC 6066 §3 lets us)."""
        note_called(engine, name, context)
        if name:
            name = name.lower().removesuffix(".")
            chosen = self._named.get(name) or self._named.get(f"*.{name.partition('.')[2]}")
            if chosen is not None:
                engine.context = chosen.context


class _Loaded:
    """A certificate with its key, and what clients have to show, in a context."""

    def __init__(
        self,
        certificate: str,
        key: str,
        listener: Listener,
        choose: Callable[[ssl.SSLObject, str | None, ssl.SSLContext], None],
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._listener = listener
        self._choose = choose
        self._stamp = self._look_at_files()
        self.context = self._load()

    def look(self) -> None:
        """Load again what has changed."""
        if self._look_at_files() != self._stamp:
            self.load_again()

    def load_again(self) -> None:
        """Load again, or keep what there is."""
        self._stamp = self._look_at_files()
        if all(map(is_copy, self._files())):
            return  # there is nothing new in them
        try:
            self.context = self._load()
        except UnusableFileError as error:
            log.error("the certificate that was loaded from %s before stays: %s", told(self._certificate), error)
        else:
            log.info("the certificate in %s has been loaded anew", told(self._certificate))
            if problem := not_valid(self._certificate, datetime.now(UTC)):
                log.warning("%s", problem)

    def _load(self) -> ssl.SSLContext:
        context = server_context()
        load_pair(context, self._certificate, self._key)
        context.verify_mode = _VERIFY[self._listener.client_certificates]
        if self._listener.client_ca:
            # Python gives clients no list of them to choose by; OpenSSL takes whatever they have.
            load_authorities(context, self._listener.client_ca)
        context.sni_callback = self._choose
        return context

    def _files(self) -> list[str]:
        return [file for file in (self._certificate, self._key, self._listener.client_ca) if file]

    def _look_at_files(self) -> Stamp:
        return tuple(_stamp(file) for file in self._files())


def _stamp(file: str) -> tuple[int, int, int] | None:
    """What changes with a file; None without one."""
    try:
        status = Path(file).stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
