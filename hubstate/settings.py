"""The environment: the one place that reads it, anew at every call.

==========================================  ===============================================
HUBSTATE_REGISTRY, then HF_ENDPOINT         the registry: a folder, file://…, http(s)://…
HUBSTATE_CACHE                              cache folders, separated as in PATH
HUBSTATE_OFFLINE, then HF_HUB_OFFLINE       no request at all: 1/true/yes/on, 0/false/no/off
HUBSTATE_TOKEN, then HF_TOKEN               the token that registries are shown
HUBSTATE_CATALOGUE                          further catalogue files, separated as in PATH
HUBSTATE_LOCK                               the lock file; else the nearest hubstate.lock
HUBSTATE_FROZEN                             only pinned references
HUBSTATE_AUTHOR                             who publishes; else the user's name
HUBSTATE_MAX_SHARD_SIZE                     bytes of a published weights file: 5GB, if not set
LOCAL_RANK                                  set by torchrun: which of a machine's processes
REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE,         certificates that servers are held to; certifi's,
then SSL_CERT_FILE                          if none of them is set
HTTP_PROXY, HTTPS_PROXY, ALL_PROXY,         proxies, and what is reached without one; in
NO_PROXY                                    lower case too, as requests reads them
==========================================  ===============================================

A variable that is set but empty counts as not set.
"""

from __future__ import annotations

import os
from pathlib import Path

from hubstate.errors import InvalidSetting

__all__ = [
    "author",
    "ca_bundle",
    "cache_folders",
    "catalogues",
    "freeze",
    "frozen",
    "local_rank",
    "lock",
    "max_shard_size",
    "offline",
    "proxy_variables",
    "registry",
    "token",
]

_YES = frozenset({"1", "true", "yes", "on"})
_NO = frozenset({"0", "false", "no", "off"})
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD")
_SCHEMES = frozenset({"file", "http", "https"})


def registry() -> str:
    """The registry to use: a folder, or a URL without its trailing slash.

    Raises:
        InvalidSetting: a URL of another scheme.
    """
    for name in ("HUBSTATE_REGISTRY", "HF_ENDPOINT"):
        if text := _value(name):
            return _registry(name, text)
    import platformdirs  # here, because only the default needs it

    return str(Path(platformdirs.user_data_dir("hubstate", appauthor=False)) / "registry")


def _registry(name: str, text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator:
        return str(Path(text).expanduser())
    if scheme.lower() not in _SCHEMES or not rest.strip("/"):
        raise _invalid(name, text, "a folder, or a URL that begins with file, http or https")
    return text.rstrip("/")


def cache_folders() -> tuple[Path, ...]:
    """The cache folders, in order; the first that can be written is written to.

    Raises:
        InvalidSetting: ``HUBSTATE_CACHE`` holds separators only.
    """
    text = _value("HUBSTATE_CACHE")
    if text is None:
        import platformdirs  # here, because only the default needs it

        return (Path(platformdirs.user_cache_dir("hubstate", appauthor=False)),)
    folders = _paths(text)
    if not folders:
        raise _invalid("HUBSTATE_CACHE", text, f"folders separated by {os.pathsep!r}")
    return folders


def catalogues() -> tuple[Path, ...]:
    """The catalogue files to read besides the library's own."""
    return _paths(_value("HUBSTATE_CATALOGUE") or "")


def offline() -> bool:
    """Whether every request is forbidden.

    Raises:
        InvalidSetting: the value is neither yes nor no.
    """
    return _switch("HUBSTATE_OFFLINE", "HF_HUB_OFFLINE")


def frozen() -> bool:
    """Whether references that are not pinned are refused.

    Raises:
        InvalidSetting: the value is neither yes nor no.
    """
    return _switch("HUBSTATE_FROZEN")


def freeze() -> None:
    """Refuse references that are not pinned, in this process and those that it starts."""
    os.environ["HUBSTATE_FROZEN"] = "1"


def lock() -> Path | None:
    """The lock file to obey, if one is named."""
    text = _value("HUBSTATE_LOCK")
    return Path(text).expanduser() if text else None


def local_rank() -> int:
    """The number of this process among those that torchrun started on this machine, or 0."""
    text = _value("LOCAL_RANK") or "0"
    return int(text) if text.isdecimal() else 0


def token() -> str | None:
    """The token that registries are shown, if there is one.

    Raises:
        InvalidSetting: it cannot be sent in a header; the message does not repeat it.
    """
    for name in ("HUBSTATE_TOKEN", "HF_TOKEN"):
        if text := _value(name):
            if not all("!" <= char <= "~" for char in text):
                raise InvalidSetting(
                    f"{name} is not a token: expected printable ASCII without spaces (not shown)"
                )
            return text
    return None


def ca_bundle() -> str | None:
    """The certificates that servers are held to, if others than the usual ones are meant."""
    names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
    return next(filter(None, map(_value, names)), None)


def proxy_variables() -> tuple[str | None, ...]:
    """All variables that have a say in which proxy is used, for those who ask requests of it."""
    return tuple(os.environ.get(name) for word in _PROXIES for name in (word, word.lower()))


def author() -> str:
    """Who publishes: ``HUBSTATE_AUTHOR``, or else the user's name on this machine."""
    if text := _value("HUBSTATE_AUTHOR"):
        return text
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return "unknown"


def max_shard_size() -> int:
    """The bytes of tensors that a published weights file may have, before there are several.

    Raises:
        InvalidSetting: the value is no size.
    """
    from hubstate.shards import parse_size  # here, because only publishing needs it

    name = "HUBSTATE_MAX_SHARD_SIZE"
    return parse_size(_value(name) or "5GB", what=name)


def _value(name: str) -> str | None:
    return os.environ.get(name, "").strip() or None


def _switch(*names: str) -> bool:
    for name in names:
        if text := _value(name):
            if text.lower() in _YES | _NO:
                return text.lower() in _YES
            raise _invalid(name, text, "1, true, yes, on, 0, false, no or off")
    return False


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(Path(part).expanduser() for part in text.split(os.pathsep) if part.strip())


def _invalid(name: str, text: str, accepted: str) -> InvalidSetting:
    return InvalidSetting(f"{name}={text[:120]!r} means nothing here: expected {accepted}")
