"""The signature of a bundle: ed25519 over the bytes of manifest.json, which holds the hash of every other file.

Checksums prove that a bundle is whole; this proves who made it. Keys are PEM files, as OpenSSL writes them:

    openssl genpkey -algorithm ed25519 -out sign.pem
    openssl pkey -in sign.pem -pubout -out trust.pem
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from index.bundle.manifest import SIGNATURE, BundleRefused
from model.folders.files import open_plain

# signed with the manifest: a signature for anything else is none for a bundle
CONTEXT = b"recall bundle manifest 1\n"
MAX_BYTES = 1024
PEM = re.compile(b"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The private key of those who release bundles."""

    key: Ed25519PrivateKey

    @classmethod
    def read(cls, path: Path) -> "SigningKey":
        """Raises ValueError with a sentence for a file that holds no such key."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except TypeError:
            raise ValueError(f"{path}: the signing key is encrypted; it has to be a plain one") from None
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError(f"{path} holds no private key in PEM") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError(f"{path} holds a key of another kind than ed25519")
        return cls(key)

    def sign(self, manifest: bytes) -> bytes:
        """The content of the signature's file."""
        return base64.b64encode(self.key.sign(CONTEXT + manifest)) + b"\n"


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """The public keys of those whose bundles are served: one, or two while one takes the other's place."""

    keys: tuple[Ed25519PublicKey, ...]

    @classmethod
    def read(cls, path: Path) -> "TrustedKeys":
        """Raises ValueError with a sentence for a file that holds no such key, or a key of another kind."""
        try:
            keys = [serialization.load_pem_public_key(part) for part in PEM.findall(path.read_bytes())]
        except (ValueError, UnsupportedAlgorithm):
            keys = []
        trusted = tuple(key for key in keys if isinstance(key, Ed25519PublicKey))
        if not keys or len(trusted) != len(keys):
            raise ValueError(f"{path} does not hold public keys of ed25519 in PEM, and nothing else")
        return cls(trusted)

    def check(self, root: Path, manifest: bytes) -> str:
        """The name of the key that signed this manifest. Raises BundleRefused where none of these did."""
        signature = _read_signature(root)
        for key in self.keys:
            try:
                key.verify(signature, CONTEXT + manifest)
            except InvalidSignature:
                continue
            return name_of(key)
        raise BundleRefused("its signature is by none of the trusted keys, or its manifest was changed")


def name_of(key: Ed25519PublicKey) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a public key: for logs."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _read_signature(root: Path) -> bytes:
    try:
        with open_plain(root / SIGNATURE) as file:
            # 64 bytes are 88 letters: whatever is longer is no signature, and is not read to its end
            text = file.read(MAX_BYTES)
    except FileNotFoundError:
        raise BundleRefused(
            "it is not signed, and only signed bundles are served; sign it with `recall sign`"
        ) from None
    try:
        return base64.b64decode(text.removesuffix(b"\n"), validate=True)
    except ValueError:
        raise BundleRefused(f"{SIGNATURE} holds no signature") from None
