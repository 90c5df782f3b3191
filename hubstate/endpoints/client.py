"""huggingface_hub, as it is used here: for one server, with our token, its errors as ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hubstate import settings
from hubstate.errors import (
    Conflict,
    HubstateError,
    NotFound,
    RepositoryNotFound,
    RevisionNotFound,
    Unreachable,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from hubstate.endpoints.http import HttpEndpoint

__all__ = ["api", "quiet_bars", "status_of", "wrapped"]

_CODES: Mapping[str, type[NotFound]] = {
    "RepoNotFound": RepositoryNotFound,
    "RevisionNotFound": RevisionNotFound,
}


def api(hub: HttpEndpoint) -> HfApi:
    from huggingface_hub import HfApi

    # False, because None would send the token of another server that is saved on this machine.
    return HfApi(endpoint=hub.name, token=settings.token() or False, library_name="hubstate")


@contextmanager
def quiet_bars() -> Iterator[None]:
    """Leave huggingface_hub its progress bars on a terminal only."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if (sys.stderr and sys.stderr.isatty()) or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def wrapped(what: str) -> Iterator[None]:
    """Turn every error of huggingface_hub, and of what it is built on, into one of ours."""
    try:
        yield
    except HubstateError:
        raise
    except Exception as error:  # its releases differ in the libraries whose errors they let out
        raise _translate(error, what) from error


def _translate(error: Exception, what: str) -> HubstateError:
    response: Any = getattr(error, "response", None)
    said = getattr(error, "server_message", None)
    if not said:
        cause = f": {error.__cause__}" if error.__cause__ else ""
        said = f"{error}{cause}".strip() or type(error).__name__
    text = " ".join(said.split())[:400]
    if "CERTIFICATE_VERIFY_FAILED" in text and settings.ca_bundle():
        text += "; what publishes reads the certificates that SSL_CERT_FILE names, and no other"
    status = status_of(error)
    code = response.headers.get("X-Error-Code", "") if response is not None else ""
    if code in _CODES:
        return _CODES[code](f"{what}: {text}")
    if status in (409, 412):
        return Conflict(f"{what}: {text}")
    if status in (401, 403):
        shown = "the token that was sent" if settings.token() else "HUBSTATE_TOKEN names no token"
        return Unreachable(f"{what}: access is refused: {text}; {shown}")
    return Unreachable(f"{what}: {text}")


def status_of(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)
