"""A private key: read from its file, and used.

Promise: what `load` gives can sign. Keys hide themselves: nothing of them is in a repr or an error.
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from postroika.errors import ConfigError

MOST_RSA_BITS = 4096  # verifiers need not take longer ones (RFC 8301 §3.2), and they are slow
_PADDING = PKCS1v15()
_SHA256 = Prehashed(hashes.SHA256())


class Key:
    """A private key.

    Attributes:
        algorithm: a= of its signatures.
    """

    __slots__ = ("_private", "algorithm")

    def __init__(self, private: RSAPrivateKey | Ed25519PrivateKey) -> None:
        self._private = private
        self.algorithm = "rsa-sha256" if isinstance(private, RSAPrivateKey) else "ed25519-sha256"

    def sign(self, digest: bytes) -> bytes:
        """The signature of what has this SHA-256 hash (RFC 6376 §3.3.1; RFC 8463 §3: it is the hash that is signed).
        The interpreter's lock is let go of meanwhile."""
        private = self._private
        if isinstance(private, RSAPrivateKey):
            return private.sign(digest, _PADDING, _SHA256)
        return private.sign(digest)

    @property
    def public_octets(self) -> bytes:
        """The public key as p= has it: the whole SubjectPublicKeyInfo of RSA (RFC 6376 §3.6.1, as all write it), the
        32 octets alone of Ed25519 (RFC 8463 §4)."""
        public = self._private.public_key()
        if isinstance(self._private, RSAPrivateKey):
            return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def load(pem: bytes, *, min_rsa_bits: int) -> Key:
    """The key in a PEM file.

    Raises:
        ConfigError: there is none, or none that can be used; the text can follow the file's name.
    """
    try:
        # To prove that its numbers are primes takes seconds for a key that is far too long; so its length comes first.
        private = serialization.load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
    except TypeError:
        raise ConfigError("the key has a passphrase: the server cannot be asked for it") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError("not a private key in PEM form") from None
    if isinstance(private, Ed25519PrivateKey):
        return Key(private)
    if not isinstance(private, RSAPrivateKey):
        raise ConfigError("neither an RSA nor an Ed25519 key")
    if not min_rsa_bits <= private.key_size <= MOST_RSA_BITS:
        wanted = f"at least {min_rsa_bits}" if private.key_size < min_rsa_bits else f"at most {MOST_RSA_BITS}"
        raise ConfigError(f"an RSA key of {private.key_size} bits, where {wanted} are wanted")
    try:
        proven = serialization.load_pem_private_key(pem, None)
    except ValueError:
        raise ConfigError("not an RSA key: its numbers do not belong together") from None
    assert isinstance(proven, RSAPrivateKey)
    return Key(proven)


def generate(algorithm: str, bits: int) -> bytes:
    """A new private key, in PEM form.

    Args:
        algorithm: "rsa" or "ed25519".
        bits: of an RSA key.
    """
    private: RSAPrivateKey | Ed25519PrivateKey
    private = generate_private_key(65537, bits) if algorithm == "rsa" else Ed25519PrivateKey.generate()
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
