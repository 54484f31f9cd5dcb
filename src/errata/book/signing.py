"""Signatures: ed25519 over the hash of an event, by the library `cryptography` (the extra ``errata-lm[sign]``).

make_key("ada.pem")                     # a new private key; returns the public one, to be told to others
signer = Signer("ada.pem")
holds(signer.public, signer.sign(text), text)
"""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from errata.book.files import sync_whole
from errata.content import read_file
from errata.errors import BadConfig, BadFile

LONGEST = 1 << 16  # bytes of a key's file that are read


class Signer:
    """A private key that signs. Raises BadFile if `path` holds none, BadConfig if the library is not installed."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        kind = _library()
        try:
            key = import_module("cryptography.hazmat.primitives.serialization").load_pem_private_key(
                read_file(path, LONGEST), password=None
            )
        except (OSError, ValueError, TypeError) as error:  # TypeError: it is encrypted
            raise BadFile(f"cannot read a private key from {path} ({error}): make one with errata keygen.") from error
        if not isinstance(key, kind.Ed25519PrivateKey):
            raise BadFile(f"the key in {path} is not an ed25519 key: make one with errata keygen.")
        self._key = key
        self.public = key.public_key().public_bytes_raw().hex()

    def sign(self, text: str) -> str:
        """Return the signature of a text, in hex."""
        return str(self._key.sign(text.encode()).hex())


def is_key(text: str) -> bool:
    """Return whether a text can be a public key, or a hash: 64 hexadecimal digits."""
    return bool(re.fullmatch(r"[0-9a-fA-F]{64}", text, re.ASCII))


def open_to_others(path: str | os.PathLike[str]) -> str:
    """Return a warning of a private key that others than its owner may read or write; "" of one they may not."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return ""
    if os.name == "nt" or not mode & 0o066:
        return ""
    what = "write" if mode & 0o022 else "read"
    return f"others than its owner can {what} the key {path}: chmod 600 it, and make a new one if somebody may have."


def holds(public: str, signature: str, text: str) -> bool:
    """Return whether `signature` is that of `text` by the owner of the public key; both are hex."""
    kind = _library()
    try:
        kind.Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(bytes.fromhex(signature), text.encode())
    except (ValueError, TypeError, import_module("cryptography.exceptions").InvalidSignature):
        return False
    return True


def make_key(path: str | os.PathLike[str]) -> str:
    """Write a new private key, readable by its owner only, and return its public key in hex.

    Raises:
        BadFile: there is a file already, or it cannot be written.
    """
    kind, forms = _library(), import_module("cryptography.hazmat.primitives.serialization")
    key = kind.Ed25519PrivateKey.generate()
    data = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        sync_whole(Path(path).absolute().parent)
    except OSError as error:
        raise BadFile(f"cannot write a key to {path} ({error.strerror}): name a new file.") from error
    return str(key.public_key().public_bytes_raw().hex())


def _library() -> Any:
    try:
        return import_module("cryptography.hazmat.primitives.asymmetric.ed25519")
    except ImportError as error:
        raise BadConfig("signatures need the library cryptography: pip install 'errata-lm[sign]'.") from error
