"""``hubstate models``."""

from __future__ import annotations

import click

from hubstate.cli.output import as_json, show, table

__all__ = ["command"]


@click.command("models")
@click.argument("pattern", default="*")
@as_json
def command(pattern: str, as_json: bool) -> None:
    """List the builders whose names match PATTERN, and the weights that are known for them.

    \b
    Example:
      hubstate models 'resnet*'
    """
    from hubstate.zoo.catalogue import entries
    from hubstate.zoo.create import list_models

    known = entries()
    found = {name: [e for e in known if e.builder == name] for name in list_models(pattern)}
    rows = [
        [name, entry.tag + (" (default)" if entry.default else ""), str(entry.reference)]
        for name, weights in found.items()
        for entry in weights
    ]
    rows += [[name, "-", "-"] for name, weights in found.items() if not weights]
    data = {
        name: [
            {
                "tag": entry.tag,
                "default": entry.default,
                "reference": str(entry.reference),
                "license": entry.license,
                "preprocessing": dict(entry.preprocessing),
                "metrics": dict(entry.metrics),
            }
            for entry in weights
        ]
        for name, weights in found.items()
    }
    text = table(["MODEL", "WEIGHTS", "REFERENCE"], sorted(rows))
    show(data, text if rows else f"no builder matches {pattern!r}", as_json=as_json)
