"""The weights of a release into a live model: checked before they are fetched, mapped, all or none.

::

    reference ─ open_release ─> manifest, or the header of a plain safetensors file
                                    │ gather_rules: the release's, the builder's, the call's
                                    ▼
                            names and shapes as the model has them
                                    │ plan_entries: every difference, before a weight byte moves
                                    ▼
                                  Plan ─ wanted names ─> weights files, from cache or registry
                                    │                        │ mapped, or copied
                                    └── assign_tensors <─────┘
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from hubstate.collector import collection_paused
from hubstate.errors import StructureMismatch
from hubstate.filters import LEFT_OUT, Filter, Strict, besides, check_filter, check_strict
from hubstate.header import Header, HeaderTensor
from hubstate.hub import Release, open_release
from hubstate.loading import (
    LoadReport,
    assign_rows,
    assign_tensors,
    fitting_rows,
    headers_of,
    plan_entries,
)
from hubstate.manifest import Entry, header_of
from hubstate.migrating import gather_rules, is_migrated
from hubstate.naming import Rules
from hubstate.reference import Reference
from hubstate.report import with_rules
from hubstate.weights import map_weights, read_weights

if TYPE_CHECKING:
    from hubstate.adapting import Adaptation
    from hubstate.transforms import Rules as Transforms
    from hubstate.transforms import Transformation

__all__ = ["adaptation_of", "entries_of", "load_pretrained", "load_release"]


def load_pretrained(
    model: nn.Module,
    reference: str | Reference,
    *,
    filter: Filter | None = None,
    strict: Strict = True,
    rename: Rules | None = None,
    transforms: Transforms | None = None,
    migrations: Mapping[str, Transforms] | None = None,
    adapt: Mapping[str, int] | None = None,
    prefault: bool = False,
    copy: bool = False,
    registry: str | None = None,
) -> LoadReport:
    """Load the weights of a release into a model that was just built.

    The structure is compared first, so that weights which cannot fit are never fetched. The
    tensors are then mapped from the cache, copy-on-write, and take the place of the model's own:
    make the optimizer afterwards. What the model had in its parameters is of no interest.

    Args:
        model: the module to load into; its dtypes, devices, ties and modes stay.
        reference: ``org/name@revision``.
        filter: ``filter(path, leaf)`` says which names are loaded and checked. What a model of
            ``features_only=True`` lacks of its network is left out as well.
        strict: also refuse tensors and parameter-free children that only one side has, or with
            "tensors" the tensors alone; otherwise they are reported.
        rename: regular expressions and their replacements for the release's names.
        transforms: rules that make the model's tensors of the release's, before ``rename``; see
            ``hubstate.transforms``.
        migrations: transforms by the structure hash of the releases that they are for, or by
            ``has:`` and the name of a tensor that only those releases have; where one is for this
            release, it is applied before ``transforms``, and what the release states of its own
            before either. The report has all that were applied.
        adapt: ``num_classes``, ``in_chans`` and ``image_size`` of the model, where those of the
            release may be others; see ``hubstate.adapting``. The report names each tensor that
            this touches.
        prefault: read the mapped pages now, instead of in the first forward (Linux).
        copy: read into memory of the process's own instead of mapping the file.
        registry: a folder or URL instead of the configured registry.

    Raises:
        StructureMismatch: model and release differ; nothing was fetched or changed, and
            ``.issues`` has every difference.
        InvalidSetting: a rule of ``transforms`` that means nothing.
        NotFound: no such repository, revision or weights file.
        Damaged: a manifest, header or file that is not what it must be.
        Offline: something is not in the cache, and no request is allowed.
        Unreachable: the registry does not answer.
        TypeError: a filter that cannot be called.

    >>> import hubstate
    >>> _ = hubstate.publish(nn.Linear(3, 2), "org/tiny", license="mit", weights_only=True)
    >>> print(load_pretrained(nn.Linear(3, 2), "org/tiny"))
    2 loaded
    """
    check_filter(filter)
    check_strict(strict)
    with collection_paused():
        release = open_release(reference, registry=registry, outlined=True)
        return load_release(
            model,
            release,
            filter=filter,
            strict=strict,
            rename=rename,
            transforms=transforms,
            migrations=migrations,
            adapt=adapt,
            prefault=prefault,
            copy=copy,
        )


def load_release(
    model: nn.Module,
    release: Release,
    *,
    filter: Filter | None = None,
    strict: Strict = True,
    rename: Rules | None = None,
    transforms: Transforms | None = None,
    migrations: Mapping[str, Transforms] | None = None,
    adapt: Mapping[str, int] | None = None,
    prefault: bool = False,
    copy: bool = False,
) -> LoadReport:
    """As :func:`load_pretrained`, from a release that is open already."""
    check_filter(filter)
    check_strict(strict)
    filter = besides(getattr(model, LEFT_OUT, ()), filter)
    read = read_weights if copy else functools.partial(map_weights, prefault=prefault)
    plain = filter is None and not (rename or transforms or adapt)
    if plain and (report := _load_outlined(model, release, migrations, read)):
        return report
    entries = tuple(entries_of(release))
    adaptation = None
    try:
        applied = gather_rules(
            release.manifest, entries, migrations=migrations, transforms=transforms
        )
        rules = [rule for each in applied.values() for rule in each]
        there, offered = _transformed(entries, rules)
        if adapt:
            adaptation = adaptation_of(model, release, adapt, entries=offered)
            filter = adaptation.narrow(filter)
            there, offered = _transformed(entries, [*rules, *adaptation.rules])
        plan = plan_entries(model, offered, filter=filter, strict=strict, rename=rename, fresh=True)
        wanted = plan.wanted if there is None else there.needs(plan.wanted)
        tensors: dict[str, Tensor] = {}
        for path, names, header in _files(release, entries, wanted):
            tensors |= read(path, names, header=header)
        if there is not None:
            tensors |= {e.path: tensors[e.tied_to] for e in entries if e.tied_to in tensors}
            tensors = there.apply(tensors, names=plan.wanted)
        report = assign_tensors(plan, tensors)
        if applied:
            report = with_rules(report, applied)
        return report if adaptation is None else adaptation.tell(report)
    except StructureMismatch as error:
        issues = error.issues if adaptation is None else adaptation.explain(error.issues)
        raise StructureMismatch(issues, where=str(release.reference)) from None


def _load_outlined(
    model: nn.Module,
    release: Release,
    migrations: Mapping[str, Transforms] | None,
    read: Callable[..., dict[str, Tensor]],
) -> LoadReport | None:
    """The load of a release that is in the cache into the very model that was published.

    None where that is not what this is, and nothing was done.
    """
    outline = release.outline
    if outline is None or (rows := fitting_rows(model, outline)) is None:
        return None
    if migrations and is_migrated(outline.contract, {row[0] for row in rows}, migrations):
        return None
    tensors: dict[str, Tensor] = {}
    for name, header in headers_of(rows, outline).items():
        tensors |= read(release.paths[name], header=header)
    return assign_rows(model, rows, tensors)


def adaptation_of(
    model: nn.Module,
    release: Release,
    sizes: Mapping[str, int],
    *,
    entries: Iterable[Entry] | None = None,
) -> Adaptation:
    """What makes a release fit a model that was made with these arguments.

    Args:
        model: what is to be loaded into.
        release: what is to be loaded.
        sizes: as ``adapt`` of :func:`load_pretrained`.
        entries: the structure of the release, where rules have changed it.
    """
    from hubstate.adapting import find_adaptation  # here, because few loads adapt

    builder = release.manifest.builder if release.manifest else None
    stated = builder.sizes if builder else {}
    found = entries_of(release) if entries is None else entries
    return find_adaptation(model, found, sizes, stated=stated)


def _transformed(
    entries: tuple[Entry, ...], transforms: Transforms
) -> tuple[Transformation | None, tuple[Entry, ...]]:
    if not transforms:
        return None, entries
    from hubstate.loading import transform_entries  # here, because few loads have any

    return transform_entries(entries, transforms)


def entries_of(release: Release) -> Iterable[Entry]:
    """The structure of a release: its manifest's, or the tensors that its weights' headers name.

    Raises:
        FileNotInRelease: there is neither.
        InvalidWeights: a header that breaks the format, or an index that disagrees with them.
    """
    if release.manifest is not None:
        return release.manifest.structure
    return [
        Entry(path=tensor.name, kind="param", shape=tensor.shape, dtype=tensor.dtype)
        for header in release.weights_headers().values()
        for tensor in header.tensors.values()
    ]


def _files(
    release: Release, entries: Iterable[Entry], wanted: Iterable[str]
) -> Iterator[tuple[Path, Collection[str], Header]]:
    """Each weights file that has something wanted, and what: only that is fetched from a server."""
    ties = {entry.path: entry.tied_to for entry in entries if entry.tied_to}
    stored = {ties.get(name, name) for name in wanted}
    headers = _headers(release)
    held = {name: header.tensors.keys() for name, header in headers.items()}
    full = [name for name, names in held.items() if names and names <= stored]
    parts = {name: stored & names for name, names in held.items() if name not in full}
    if any(parts.values()):
        _check_room(release, full, {n: [headers[n].tensors[t] for t in parts[n]] for n in parts})
    whole = release.fetch(full)
    for name, header in headers.items():
        if name in whole:
            yield whole[name], held[name], header
        elif chosen := parts[name]:
            yield release.tensors_path(name, chosen), chosen, header
        else:
            release.keep_header(name)


def _check_room(
    release: Release, full: Iterable[str], parts: Mapping[str, Iterable[HeaderTensor]]
) -> None:
    """Refuse what does not fit, before the first of it is fetched."""
    source = release.source
    sizes = {name: source.info(name).size or 0 for name in full}
    sizes |= {name: sum(t.stop - t.start for t in tensors) for name, tensors in parts.items()}
    source.check_room({name: size for name, size in sizes.items() if source.find(name) is None})


def _headers(release: Release) -> Mapping[str, Header]:
    """The weights files of a release, and what is where in each.

    The digests of a manifest are those of the tensors as it places them, so that a file which has
    them need not be asked again.
    """
    if release.manifest is None:
        return release.weights_headers()
    return {file.path: header_of(file) for file in release.manifest.files if file.tensors}
