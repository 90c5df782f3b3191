"""Publishing a model: state, manifest, gate, one atomic commit.

::

    a staged release              what is in it
    ├── model.safetensors         every tensor once, under its state_dict() key; if they are too
    │                             large for one file, the files of hubstate.shards
    ├── hubstate.json             the manifest
    ├── config.json               what timm and mixin loaders read
    └── README.md                 the model card
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from hubstate import settings
from hubstate.difference import Difference, compare
from hubstate.errors import GateRefused, InvalidSetting, RepositoryNotFound, RevisionNotFound
from hubstate.fitness import refusals
from hubstate.gate import pass_gate
from hubstate.hub import open_registry, open_release, publish_files, tag_commit, target_of
from hubstate.manifest import Json, Manifest
from hubstate.progress import step
from hubstate.reference import Reference
from hubstate.rules import Rules as Transforms
from hubstate.rules import parse_rules
from hubstate.scratch import scratch_folder
from hubstate.shards import parse_size
from hubstate.staging import Description, preprocessing_of, recorded_builder, stage
from hubstate.values import frozen

__all__ = ["Publication", "publish"]

Action = Literal["published", "unchanged", "planned"]


@frozen
class Publication:
    """What a call of :func:`publish` did."""

    repository: str
    branch: str
    tag: str | None
    action: Action
    """``published``; ``unchanged``: the very same release was there; ``planned``: a dry run."""
    commit: str | None
    """The 40-digit commit; None for a dry run of a release that would be new."""
    parent: str | None
    """The commit that the branch named before; None for the first release."""
    manifest: Manifest = field(repr=False)
    difference: Difference = field(repr=False)
    """Against the last release on the branch."""

    @property
    def reference(self) -> str:
        """What to fetch to get exactly this release."""
        return f"{self.repository}@{self.commit or self.branch}"

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "repository": self.repository,
            "branch": self.branch,
            "tag": self.tag,
            "action": self.action,
            "commit": self.commit,
            "reference": self.reference,
            "structure_hash": str(self.manifest.structure_hash),
            "bytes": sum(file.size for file in self.manifest.files),
            "difference": self.difference.to_json(),
        }

    def __str__(self) -> str:
        if self.action == "unchanged":
            named = f", named {self.tag}" if self.tag else ""
            return (
                f"{self.repository}: nothing to publish, {self.commit} is this very release{named}"
            )
        verb = "would publish" if self.action == "planned" else "published"
        name = self.repository if self.action == "planned" else self.reference
        tag = f" as {self.tag}" if self.tag else ""
        return f"{verb} {name}{tag}: {self._contents()}"

    def _contents(self) -> str:
        if self.parent:
            return str(self.difference)
        size = sum(file.size for file in self.manifest.files)
        return f"the first release, {len(self.difference.added)} tensors, {size:,} bytes"


def publish(
    model: nn.Module,
    repository: str,
    *,
    license: str,
    builder: str | None = None,
    arguments: Mapping[str, Json] | None = None,
    weights_only: bool = False,
    transforms: Transforms | None = None,
    metrics: Mapping[str, Json] | None = None,
    labels: Sequence[str] = (),
    preprocessing: Mapping[str, Json] | None = None,
    provenance: Mapping[str, Json] | None = None,
    description: str = "",
    probe: Sequence[int] | None = None,
    probe_dtype: str = "float32",
    branch: str = "main",
    tag: str | None = None,
    message: str | None = None,
    allow_nonfinite: bool = False,
    allow_equal: bool = False,
    max_shard_size: int | str | None = None,
    dry_run: bool = False,
    registry: str | None = None,
) -> Publication:
    """Publish a model as one atomic commit, after it has passed the gate.

    Publishing the very same release again does nothing and says so; an interrupted publish is
    completed by running it again.

    Args:
        model: the module whose parameters and persistent buffers are published.
        repository: ``org/name``.
        license: an SPDX identifier such as ``apache-2.0``; there is no default.
        builder: who rebuilds the architecture: a registered name or ``package.module:function``.
            A model made by a registered builder knows its own.
        arguments: what the builder is called with.
        weights_only: publish tensors without an architecture; then nobody can rebuild the model
            from the release alone, and the gate checks the bytes only.
        transforms: rules that make the tensors of the builder's model of this one's, which are
            published as they are: for weights in the layout that an architecture once had, or that
            another library gives it. Whoever loads the release applies them; the gate does so too.
            They are kept by name, without their patterns. See ``hubstate.transforms``.
        metrics: measured figures, such as ``{"accuracy": 0.991}``.
        labels: class names in the order of the output.
        preprocessing: ``input_size``, ``mean``, ``std`` …; the builder's own if not given.
        provenance: anything to be kept beside versions, date and git commit.
        description: the model card's first paragraph.
        probe: the shape of an input to record a probe with; by default two images of the
            preprocessing's ``input_size``, and no probe where there is none.
        probe_dtype: ``float32`` or ``int64``.
        branch: the branch that moves.
        tag: a name that this commit keeps for ever.
        message: the commit's message.
        allow_nonfinite: accept NaN and infinite values.
        allow_equal: accept a release whose tensors all equal the last one's.
        max_shard_size: the bytes of tensors in one file, as a number or as ``5GB`` or ``500MB``;
            by default what ``HUBSTATE_MAX_SHARD_SIZE`` says, or 5GB. A larger state is published
            as ``model-00001-of-0000N.safetensors`` … with an index, as huggingface_hub and
            transformers do it. The memory that publishing takes besides the model is less than
            that of one such file and 200 MB; a probe takes a copy of a model that is not in
            float32 on the CPU.
        dry_run: do everything but the commit.
        registry: a folder or URL instead of the configured registry.

    Raises:
        GateRefused: the release is not fit to be published; `.problems` has every reason.
            A lazy, sharded or packed module is one, since its values cannot be told.
        Conflict: somebody else moved the branch, or the tag names another commit.
        InvalidWeights: a tensor's dtype or layout cannot be stored; the path is named.
        InvalidReference: the repository's name cannot be read, or has a revision.
        InvalidSetting: an argument means nothing.
        TypeError: the model is no module, or the builder no name.
        Offline: the registry is a server, and no request is allowed.
        Unreachable: the registry does not answer, or the temporary folder is full.

    >>> from torch import nn
    >>> done = publish(nn.Linear(3, 2), "org/line", license="mit", weights_only=True, tag="v1")
    >>> done.action, done.tag, [file.path for file in done.manifest.files]
    ('published', 'v1', ['model.safetensors'])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"publish takes a torch.nn.Module, not a {type(model).__name__}")
    if isinstance(labels, str):
        raise InvalidSetting(f"labels: expected a list of names, found one text, {labels!r:.60}")
    if isinstance(probe, int):
        raise TypeError(f"probe is the shape of an input, such as (2, 3, 224, 224), not {probe}")
    target = target_of(repository, branch)
    limit = settings.max_shard_size() if max_shard_size is None else parse_size(max_shard_size)
    endpoint = open_registry(registry)  # one that cannot be asked is told before all else
    meaning = Description(
        builder=None if weights_only else recorded_builder(model, builder, arguments),
        license=license,
        metrics=metrics or {},
        labels=tuple(labels),
        preprocessing=preprocessing_of(model) if preprocessing is None else preprocessing,
        provenance=provenance or {},
        text=description,
        probe=tuple(probe) if probe else None,
        probe_dtype=probe_dtype,
        weights_only=weights_only,
        transforms=parse_rules(transforms or ()),
    )
    if problems := refusals(model, meaning, allow_nonfinite=allow_nonfinite):
        raise GateRefused(problems)
    with scratch_folder(endpoint.scratch) as folder:
        with step("writing and hashing the weights"):
            manifest = stage(model, folder, meaning, repository=target.repo, limit=limit)
        plan = _plan(target, tag, manifest, registry)
        if plan.action == "unchanged":
            return _keep(plan, dry_run=dry_run, registry=registry)
        if plan.parent and plan.difference.same_tensors and not allow_equal:
            raise GateRefused([_all_equal(plan)])
        with step("gate: rebuilding the model in a fresh process"):
            pass_gate(folder)
        return plan if dry_run else _commit(plan, folder, message, registry)


def _plan(
    target: Reference, tag: str | None, manifest: Manifest, registry: str | None
) -> Publication:
    """What is to be done, judged by the last release on the branch."""
    last, parent = _last(target, registry)
    difference = compare(last, manifest)
    same = last is not None and difference.empty
    return Publication(
        repository=target.repo,
        branch=target.revision,
        tag=tag,
        action="unchanged" if same else "planned",
        commit=parent if same else None,
        parent=parent,
        manifest=manifest,
        difference=difference,
    )


def _last(target: Reference, registry: str | None) -> tuple[Manifest | None, str | None]:
    """The manifest and commit that the branch names now; a commit may hold no manifest."""
    try:
        release = open_release(target, registry=registry, refresh=True)
    except (RepositoryNotFound, RevisionNotFound):
        return None, None
    return release.manifest, release.commit.id


def _keep(plan: Publication, *, dry_run: bool, registry: str | None) -> Publication:
    """The release is there; a tag that an interrupted publish did not reach is still set."""
    if plan.tag and plan.commit and not dry_run:
        tag_commit(plan.repository, plan.tag, commit=plan.commit, registry=registry)
    return plan


def _commit(
    plan: Publication, folder: Path, message: str | None, registry: str | None
) -> Publication:
    with step(f"publishing to {plan.repository}"):
        commit = publish_files(
            plan.repository,
            {path.name: path for path in sorted(folder.iterdir())},
            message=message or f"Publish {plan.repository}",
            branch=plan.branch,
            tag=plan.tag,
            parent=plan.parent,
            registry=registry,
        )
    return dataclasses.replace(plan, action="published", commit=commit.id)


def _all_equal(plan: Publication) -> str:
    also = ", ".join(plan.difference.meaning)
    return (
        f"all {len(plan.difference.equal)} tensors equal those of the last release, {plan.parent}; "
        f"only {also} differ: pass allow_equal=True (--allow-equal) if that is meant"
    )
