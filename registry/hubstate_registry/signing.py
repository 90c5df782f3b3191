"""Short-lived signed claims: an upload address needs no Authorization, because it is one.

A token is ``<base64url of JSON claims>.<base64url of HMAC-SHA-256>``; the claims hold their
purpose and expiry, so that a token for one purpose opens nothing else. The key is a file of
the registry's folder, readable by its owner alone.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from hubstate_registry.errors import Forbidden

__all__ = ["Signer"]


class Signer:
    """Signs claims and reads them back.

    >>> signer = Signer(b"0" * 32)
    >>> signer.verify("lfs", signer.sign("lfs", {"size": 3}, seconds=60))["size"]
    3
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def open(cls, path: Path) -> Signer:
        """Read the key at ``path``, or make one.

        Raises:
            OSError: it can neither be read nor made.
        """
        if not path.exists():
            temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)  # fails if another process was first: its key stands
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        return cls(path.read_bytes())

    def sign(self, purpose: str, claims: Mapping[str, object], *, seconds: float) -> str:
        """A token that says ``claims`` for ``purpose`` until ``seconds`` from now."""
        body = {**claims, "for": purpose, "until": time.time() + seconds}
        payload = _encode(json.dumps(body, separators=(",", ":")).encode())
        return f"{payload}.{self._mac(payload)}"

    def verify(self, purpose: str, token: str) -> Mapping[str, object]:
        """The claims of a token that was signed here for ``purpose`` and is still good.

        Raises:
            Forbidden: it is forged, expired, or for something else.
        """
        payload, _, mac = token.partition(".")
        try:
            genuine = hmac.compare_digest(self._mac(payload).encode(), mac.encode())
            claims = json.loads(_decode(payload)) if genuine else {}
        except (ValueError, binascii.Error, UnicodeError):
            claims = {}
        if not isinstance(claims, dict) or claims.get("for") != purpose:
            raise Forbidden("This address was not signed by this registry")
        if time.time() > float(claims["until"]):
            raise Forbidden("This address has expired; ask for a new one")
        return claims

    def _mac(self, payload: str) -> str:
        return _encode(hmac.new(self._key, payload.encode(), hashlib.sha256).digest())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
