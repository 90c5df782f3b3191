"""What a lock file says, and its TOML: sorted, a line for each file, so that a diff reads well.

::

    schema = 1

    [model.resnet18_small]                               what pretrained=True means,
    reference = "hubstate/resnet18-digits@main"
    tag = "digits"

    [model."resnet18_small:digits"]                      and what pretrained="digits" does
    …

    [release."hubstate/resnet18-digits@main"]            what the reference means
    commit = "<40 hex>"
    manifest = "sha256:<64 hex>"                         of hubstate.json, where there is one
    registry = "https://registry.example"                if not the configured registry
    size = 44730000                                      bytes of all files

    [release."hubstate/resnet18-digits@main".files]
    "hubstate.json" = { sha256 = "<64 hex>", size = 20480 }
    …

The digests pin what is loaded; the commit says where it is. Another registry may have the same
files under another commit, as a bundle does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import UTC, datetime
from typing import Any

from hubstate.blobs import FileInfo, check_info
from hubstate.digest import Digest
from hubstate.endpoints.base import MANIFEST, Commit, check_path
from hubstate.errors import Damaged, DigestMismatch, InvalidReference
from hubstate.reference import Reference, is_reference
from hubstate.values import frozen, replace

__all__ = ["LockFile", "ModelPin", "Pin", "dump_lock", "parse_lock"]

SCHEMA = 1
_HEAD = "# Which releases this project uses. Written by 'hubstate lock'; keep it with the code.\n"
_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9][A-Za-z0-9._-]*)?\Z")
_LARGEST = 64 << 20  # bytes; a release of 1,000 files takes about 130 KB


@frozen
class Pin:
    """The one release that a reference means."""

    reference: Reference
    commit: str
    files: Mapping[str, FileInfo]
    """All of them, each with its size and digest."""
    registry: str | None = None
    """Where the release is, if not in the configured registry."""

    @property
    def manifest(self) -> Digest | None:
        """The digest of ``hubstate.json``, where there is one."""
        info = self.files.get(MANIFEST)
        return info.digest if info else None

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(info.size or 0 for info in self.files.values())

    @property
    def tag(self) -> str:
        """What the release is tagged with in a bundle, where its commit has another id."""
        return f"locked-{self.commit}"

    @property
    def places(self) -> tuple[Reference, ...]:
        """References under which a registry may have the release, the likeliest first."""
        revisions = [self.commit, str(self.manifest) if self.manifest else None, self.tag]
        return tuple(self.reference.at(revision) for revision in revisions if revision)

    @property
    def release(self) -> Commit:
        """The commit, as far as the lock file tells of it."""
        return Commit(
            repo=self.reference.repo,
            id=self.commit,
            parent=None,
            message="",
            author="",
            date=datetime.fromtimestamp(0, UTC),
            files=dict(self.files),
        )

    def check(self, commit: Commit) -> None:
        """Hold a commit against the pin; digests that a registry does not state are not missed.

        Raises:
            DigestMismatch: it has other files; every difference is named.
        """
        problems = list(_differences(self.files, commit.files))
        if problems:
            raise DigestMismatch(
                f"{self.reference}: {commit.repo}@{commit.id} is not what the lock file says: "
                + "; ".join(problems)
            )


def _differences(files: Mapping[str, FileInfo], found: Mapping[str, FileInfo]) -> Iterator[str]:
    for path in sorted({*files, *found}):
        if path not in found or path not in files:
            yield f"{path} is {'missing' if path in files else 'not in the lock file'}"
            continue
        listed = found[path]
        try:
            check_info(
                files[path], replace(listed, digest=listed.digest or files[path].digest), what=path
            )
        except DigestMismatch as error:
            yield str(error)


@frozen
class ModelPin:
    """What a model's ``pretrained=…`` means: a reference, which is pinned in its turn."""

    reference: Reference
    tag: str
    """In the catalogue, which knows the arguments that fit these weights."""


@frozen
class LockFile:
    """The pins of a project, by name."""

    models: Mapping[str, ModelPin] = field(default_factory=dict)
    """By builder for ``pretrained=True``, by ``builder:tag`` for ``pretrained="tag"``."""
    releases: Mapping[str, Pin] = field(default_factory=dict)
    """By reference, such as ``org/name@v1``."""

    def has(self, name: str) -> bool:
        """Whether it pins a model or a reference, which need not be in full.

        Raises:
            InvalidReference: it is neither.
        """
        if is_reference(name):
            return str(Reference.parse(name)) in self.releases
        return name in self.models

    def having(
        self,
        *,
        models: Mapping[str, ModelPin] | None = None,
        releases: Mapping[str, Pin] | None = None,
    ) -> LockFile:
        """The same with further pins, or others in their place."""
        return LockFile(
            models={**self.models, **(models or {})},
            releases={**self.releases, **(releases or {})},
        )

    def without(self, *names: str) -> LockFile:
        """The same without some models and references."""
        return LockFile(
            models={name: pin for name, pin in self.models.items() if name not in names},
            releases={name: pin for name, pin in self.releases.items() if name not in names},
        )


def dump_lock(lock: LockFile) -> bytes:
    """A lock file as TOML, the same bytes for the same pins.

    >>> pin = Pin(reference=Reference.parse("org/a"), commit="0" * 40, files={})
    >>> print(dump_lock(LockFile(releases={"org/a@main": pin})).decode().partition("schema")[2])
     = 1
    <BLANKLINE>
    [release."org/a@main"]
    commit = "0000000000000000000000000000000000000000"
    size = 0
    <BLANKLINE>
    [release."org/a@main".files]
    <BLANKLINE>
    """
    lines = [f"{_HEAD}schema = {SCHEMA}"]
    for name, model in sorted(lock.models.items()):
        fields = {"reference": str(model.reference), "tag": model.tag}
        lines += ["", f"[model.{_key(name)}]", *_fields(fields)]
    for name, pin in sorted(lock.releases.items()):
        table = f"release.{_key(name)}"
        lines += ["", f"[{table}]", *_fields(_facts(pin)), "", f"[{table}.files]"]
        lines += [_file(path, info) for path, info in sorted(pin.files.items())]
    return ("\n".join(lines) + "\n").encode()


def _facts(pin: Pin) -> dict[str, object]:
    facts = {"commit": pin.commit, "manifest": pin.manifest, "registry": pin.registry}
    return {name: str(value) for name, value in facts.items() if value} | {"size": pin.size}


def _fields(fields: Mapping[str, object]) -> Iterator[str]:
    for name, value in fields.items():
        yield f"{name} = {_text(value) if isinstance(value, str) else value}"


def _file(path: str, info: FileInfo) -> str:
    assert info.digest, "a pin knows every digest"
    return f'{_text(path)} = {{ sha256 = "{info.digest.hex}", size = {info.size} }}'


def _key(name: str) -> str:
    return name if _BARE.match(name) else _text(name)


def _text(text: str) -> str:
    # JSON's escapes are among those of TOML, which has one more: https://toml.io/en/v1.0.0#string
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def parse_lock(data: bytes, *, where: str) -> LockFile:
    """Read what :func:`dump_lock` wrote; ``where`` names it in messages.

    Raises:
        Damaged: it is anything else; every problem is named.
    """
    document = _document(data, where)
    problems: list[str] = []
    if document.get("schema") != SCHEMA or document.get("schema") is True:
        problems.append(f"schema: expected {SCHEMA}, found {document.get('schema')!r}")
    for key in sorted(document.keys() - {"schema", "model", "release"}):
        problems.append(f"{key}: expected nothing of that name")
    models = _tables(document, "model", _model, problems)
    releases = _tables(document, "release", _pin, problems)
    for name, model in models.items():
        if str(model.reference) not in releases:
            problems.append(f"model {name}: {model.reference} is not among the releases")
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise Damaged(f"the lock file {where} breaks the format:\n{lines}")
    return LockFile(models=models, releases=releases)


def _document(data: bytes, where: str) -> dict[str, Any]:
    import tomllib  # here, because most projects have no lock file

    if len(data) > _LARGEST:
        raise Damaged(f"the lock file {where}: {len(data)} bytes, expected at most {_LARGEST}")
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        hint = " (a merge conflict?)" if b"<<<<<<<" in data else ""
        raise Damaged(f"the lock file {where} is not TOML: {error}{hint}") from error


def _tables(document: Mapping[str, Any], kind: str, read: Any, problems: list[str]) -> Any:
    tables = document.get(kind, {})
    if not isinstance(tables, dict):
        problems.append(f"{kind}: expected tables, found {type(tables).__name__}")
        return {}
    found = {}
    for name, table in tables.items():
        try:
            found[name] = read(name, table)
        except (KeyError, TypeError, AttributeError, ValueError, InvalidReference) as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else error
            problems.append(f"{kind} {name}: {said}")
    return found


def _model(name: str, table: Mapping[str, Any]) -> ModelPin:
    _expect(_MODEL.match(name), "expected a builder, or builder:tag")
    _expect_fields(table, {"reference", "tag"})
    reference = Reference.parse(table["reference"])
    _expect(str(reference) == table["reference"], f"expected {reference}")
    _expect(isinstance(table["tag"], str), f"tag: found {table['tag']!r}")
    return ModelPin(reference=reference, tag=table["tag"])


def _pin(name: str, table: Mapping[str, Any]) -> Pin:
    reference = Reference.parse(name)
    _expect(str(reference) == name, f"expected it in full: {reference}")
    _expect_fields(table, {"commit", "manifest", "registry", "size", "files"})
    commit, registry = table["commit"], table.get("registry")
    _expect(isinstance(commit, str) and _COMMIT.match(commit), f"commit: found {commit!r}")
    _expect(reference.commit in (None, commit), f"commit: expected {reference.commit}")
    place = isinstance(registry, str) and registry and "\0" not in registry
    _expect(registry is None or place, "registry: no text")
    files = {check_path(path): _info(path, info) for path, info in table["files"].items()}
    pin = Pin(reference=reference, commit=commit, files=files, registry=registry)
    stated = table.get("manifest")
    _expect(stated == (str(pin.manifest) if pin.manifest else None), "manifest: not its file's")
    _expect(reference.manifest in (None, pin.manifest), f"manifest: expected {reference.manifest}")
    _expect(table["size"] == pin.size, f"size: expected {pin.size}, found {table['size']!r}")
    return pin


def _info(path: str, info: Mapping[str, Any]) -> FileInfo:
    size, hex = info["size"], info["sha256"]
    _expect(type(size) is int and size >= 0, f"{path}: size: found {size!r}")
    _expect_fields(info, {"size", "sha256"})
    return FileInfo(size=size, digest=Digest(hex))


def _expect_fields(table: Mapping[str, Any], known: set[str]) -> None:
    _expect(not table.keys() - known, f"unknown: {', '.join(sorted(table.keys() - known))}")


def _expect(condition: object, problem: str) -> None:
    if not condition:
        raise ValueError(problem)
