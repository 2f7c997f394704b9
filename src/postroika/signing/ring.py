"""The keys, by tenant and domain.

Promise: a key that could be read goes on being used until `reload` reads all of them again; one that cannot be read
then is broken, and whoever needs it is told so: mail is not sent with a key that its owner has taken away, and not
unsigned.

Which keys sign: those of the tenant and the exact domain; else of the tenant and the longest ".name" that the domain is
below; else of the tenant and "*"; else the same once more among the keys without tenant. All that stand at that place
sign.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

from postroika.config import Config, Dkim
from postroika.config.named_files import told
from postroika.errors import ConfigError, SigningError
from postroika.signing.key import Key, load

log = logging.getLogger(__name__)

_MOST_FILE_BYTES = 64 * 1024
_KEPT = 512  # tenants and domains of which we know at once which keys they have


class Signature:
    """One `[[dkim]]` table with its key.

    Args:
        place: the table in the config, as "dkim[0]".

    Attributes:
        key: None while it is broken.
        tags: v= to i= of its signatures, what stays the same in all of them.
    """

    __slots__ = ("entry", "key", "place", "tags")

    def __init__(self, entry: Dkim, place: str) -> None:
        self.entry = entry
        self.place = place
        self.key: Key | None = None
        self.tags = b""

    def take(self, key: Key | None) -> None:
        """Use this key from now on, or none."""
        self.key = key
        if key is not None:
            entry = self.entry
            identity = f" i={entry.identity};" if entry.identity else ""
            self.tags = (
                f"DKIM-Signature: v=1; a={key.algorithm}; c=relaxed/relaxed;\r\n"
                f"\td={entry.signing_domain};\r\n\ts={entry.selector};{identity}"
            ).encode("ascii")


class KeyRing:
    """All keys of a config.

    Args:
        config: checked.
        read: gives the contents of a key file. Raises ConfigError.
    """

    def __init__(self, config: Config, read: Callable[[str], bytes] | None = None) -> None:
        self._min_rsa_bits = config.signing.min_rsa_bits
        self._read = read_file if read is None else read
        self._at: dict[tuple[str, str], tuple[Signature, ...]] = {}
        for i, entry in enumerate(config.dkim):
            place = (entry.tenant, entry.domain)
            self._at[place] = (*self._at.get(place, ()), Signature(entry, f"dkim[{i}]"))
        self._tenants = frozenset(entry.tenant for entry in config.dkim)
        self._kept_of = functools.lru_cache(maxsize=_KEPT)(self._of)

    def load(self) -> None:
        """Read all keys, for a start.

        Raises:
            ConfigError: some cannot be used; a line for each.
        """
        if problems := list(self._load()):
            raise ConfigError("\n".join(problems))

    def reload(self) -> None:
        """Read all keys again. Those that cannot be used are broken until the next time; that is logged."""
        for problem in self._load():
            log.error("%s; its mail is deferred until the key is there and SIGHUP is sent", problem)

    def _load(self) -> Iterator[str]:
        for signature in self:
            entry = signature.entry
            try:
                signature.take(load(self._read(entry.key), min_rsa_bits=self._min_rsa_bits))
            except ConfigError as error:
                signature.take(None)
                problem = str(error).removeprefix(entry.key).removeprefix(": ")
                yield f"{signature.place}.key: {told(entry.key)}: {problem} (key {entry.selector} of {entry.domain})"

    def __iter__(self) -> Iterator[Signature]:
        for signatures in self._at.values():
            yield from signatures

    def signatures(self, tenant: str, *domains: str) -> tuple[Signature, ...]:
        """Those that mail of `tenant` from `domains` has to have; none if no key is for it.

        Args:
            domains: of its authors, in canonical form: the first that a key is named for counts, and if there is none
                for any of them, the key for all.

        Raises:
            SigningError: one of the keys is broken; or no domain is known, and there are keys that could be for it.
        """
        found = self._kept_of(tenant, domains) if len(domains) == 1 else self._of(tenant, domains)
        if not (found or domains) and not self._tenants.isdisjoint(("", tenant)):
            raise SigningError("neither From nor the reverse-path names a domain")
        for signature in found:
            if signature.key is None:
                entry = signature.entry
                raise SigningError(f"the key {entry.selector} of {entry.signing_domain} cannot be used")
        return found

    def _of(self, tenant: str, domains: tuple[str, ...]) -> tuple[Signature, ...]:
        found = self._find(tenant, domains) if tenant else ()
        return found or self._find("", domains)

    def _find(self, tenant: str, domains: tuple[str, ...]) -> tuple[Signature, ...]:
        for domain in domains:
            if found := self._nearest(tenant, domain):
                return found
        return self._at.get((tenant, "*"), ())

    def _nearest(self, tenant: str, domain: str) -> tuple[Signature, ...]:
        at = self._at
        if found := at.get((tenant, domain), ()):
            return found
        dot = domain.find(".")
        while dot >= 0:
            if found := at.get((tenant, domain[dot:]), ()):
                return found
            dot = domain.find(".", dot + 1)
        return ()


def read_file(path: str) -> bytes:
    """The contents of a key file.

    Raises:
        ConfigError: it cannot be read, or is no key file for its size.
    """
    try:
        with Path(path).open("rb") as file:
            contents = file.read(_MOST_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read it: {error.strerror}") from error
    if len(contents) > _MOST_FILE_BYTES:
        raise ConfigError("too large for a key")
    return contents
