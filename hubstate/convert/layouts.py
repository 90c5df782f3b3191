"""The conventions of Keras, Flax and Flux, as rules that make torch's of them.

============  ==================================  ==============================================
 layout        names                               axes
============  ==================================  ==============================================
 flax, keras   kernel, embedding(s) -> weight      dense (in, out) -> (out, in)
               gamma, scale -> weight              convolution (…, in, out) -> (out, in, …)
               beta -> bias
               moving_mean, mean -> running_mean
               moving_variance, var -> running_var
 flux          γ -> weight, β -> bias              convolution (w, h, in, out) -> (out, in, h, w),
               μ -> running_mean                   and backwards in space: Flux convolves where
               σ² -> running_var                   torch correlates
============  ==================================  ==============================================

Keras 3 numbers a layer's variables (``vars.0`` …): a first one of two dimensions or more is a
kernel and the second its bias; four of one dimension are a batch normalisation. A kernel (h, w,
channels, multiplier) is depthwise where its layer's name says so or its bias has channels ×
multiplier values; it becomes (channels × multiplier, 1, h, w). In Flax's attention, heads and their
width become one axis: ``query``, ``key``, ``value`` and ``out`` are linear layers here. States of
random generators are dropped. ``params.``, ``batch_stats.``, ``model_weights.`` and ``layers.`` are
cut off the front.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hubstate.errors import InvalidSetting
from hubstate.transforms import Rule, parse_rules

__all__ = ["LAYOUTS", "layout_rules"]

Forms: TypeAlias = Mapping[str, Tensor]
_Data: TypeAlias = dict[str, Any]

_CHANNELS_LAST = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "embedding": "weight",
    "embeddings": "weight",
    "gamma": "weight",
    "scale": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "mean": "running_mean",
    "moving_variance": "running_var",
    "var": "running_var",
}
_FLUX = {"γ": "weight", "β": "bias", "μ": "running_mean", "σ²": "running_var"}
_FRONT = re.compile(r"(params|batch_stats|model_weights|layers)\.")  # containers, not layers
_TWICE = re.compile(r"(?:(?<=\.)|^)([^.]+)\.\1(?=\.[^.]+$)")  # older Keras: conv.conv.kernel
_VARIABLE = re.compile(r"(.*)\.vars\.(\d+)")
_RANDOM = "seed_generator"
_NORM = ("weight", "bias", "running_mean", "running_var")


def layout_rules(layout: str, forms: Forms) -> tuple[Rule, ...]:
    """Rules from another framework's names and axes to torch's, for the tensors of one file.

    Args:
        layout: flax, keras or flux; torch has no rules.
        forms: the tensors, or tensors like them on the meta device.

    Raises:
        InvalidSetting: an unknown layout.

    >>> import torch
    >>> layout_rules("flax", {"params.Dense_0.kernel": torch.zeros(3, 2)})[0].order
    (1, 0)
    """
    if layout not in LAYOUTS:
        raise InvalidSetting(f"layout: expected one of {', '.join(LAYOUTS)}, found {layout!r}")
    return parse_rules(LAYOUTS[layout](forms))


def _channels_last(forms: Forms) -> list[_Data]:
    random = [name for name in forms if _RANDOM in name]
    forms = {name: form for name, form in forms.items() if name not in random}
    names = {**_by_word(forms, _CHANNELS_LAST), **_by_number(forms)}
    kernels = [n for n, new in names.items() if new.endswith("weight") and not _is_table(n)]
    deep = [name for name in kernels if _is_depthwise(name, names, forms)]
    heads = [rule for name in kernels for rule in _heads(name, forms)]
    flat = {name: _joined(name, forms) for name in kernels if name not in deep}
    rules = [{"drop": _literal(random)}] if random else []
    rules += heads + _axes(flat, _last_first)
    rules += [rule for name in deep for rule in _depth(name, forms)]
    return [*rules, *_renames({name: _bare(new) for name, new in names.items()})]


def _bare(name: str) -> str:
    return _TWICE.sub(r"\1", _FRONT.sub("", name, count=1) if _FRONT.match(name) else name)


def _is_table(name: str) -> bool:
    return name.endswith(("embedding", "embeddings"))


def _is_depthwise(name: str, names: Mapping[str, str], forms: Forms) -> bool:
    shape = forms[name].shape
    if len(shape) != 4:
        return False
    bias = names[name].removesuffix("weight") + "bias"
    sizes = [forms[old].numel() for old, new in names.items() if new == bias]
    if sizes and sizes[0] != shape[3]:
        return bool(sizes[0] == shape[2] * shape[3])
    return "depthwise" in name.lower()


def _joined(name: str, forms: Forms) -> Tensor:
    """A kernel's form once the heads of an attention are one axis."""
    form = forms[name]
    return torch.empty(_two(name, forms) or form.shape, dtype=form.dtype, device="meta")


def _two(name: str, forms: Forms) -> tuple[int, int] | None:
    """(in, out) of a kernel of Flax's attention: (in, heads, width), or (heads, width, out)."""
    owner, _, leaf = name.rpartition(".")
    attention, _, layer = owner.rpartition(".")
    shape = tuple(forms[name].shape)
    if leaf != "kernel" or len(shape) != 3 or f"{attention}.query.kernel" not in forms:
        return None
    if layer == "out":
        return shape[0] * shape[1], shape[2]
    return (shape[0], shape[1] * shape[2]) if layer in ("query", "key", "value") else None


def _heads(name: str, forms: Forms) -> list[_Data]:
    """Rules that make one axis of an attention's heads and their width, in kernel and bias."""
    two, bias = _two(name, forms), name.removesuffix("kernel") + "bias"
    if two is None:
        return []
    rules: list[_Data] = [{"reshape": re.escape(name), "shape": list(two)}]
    if bias in forms and forms[bias].ndim == 2:
        rules.append({"reshape": re.escape(bias), "shape": [-1]})
    return rules


def _last_first(ndim: int) -> list[int]:
    """(…, in, out) to (out, in, …)."""
    return [ndim - 1, ndim - 2, *range(ndim - 2)]


def _depth(name: str, forms: Forms) -> list[_Data]:
    """(h, w, channels, multiplier) to (channels × multiplier, 1, h, w)."""
    literal = re.escape(name)
    height, width = forms[name].shape[:2]
    return [
        {"transpose": literal, "order": [2, 3, 0, 1]},
        {"reshape": literal, "shape": [-1, 1, height, width]},
    ]


def _by_word(forms: Forms, words: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name in forms:
        owner, dot, last = name.rpartition(".")
        found[name] = owner + dot + words.get(last, last)
    return found


def _by_number(forms: Forms) -> dict[str, str]:
    """Names for the variables that Keras 3 numbers."""
    layers: dict[str, dict[int, str]] = {}
    for name in forms:
        if match := _VARIABLE.fullmatch(name):
            layers.setdefault(match[1], {})[int(match[2])] = name
    found = {}
    for layer, variables in layers.items():
        first = forms[variables[min(variables)]]
        flat = all(forms[name].ndim == 1 for name in variables.values())
        words = _NORM if flat and len(variables) == 4 else _NORM[:2] if first.ndim > 1 else ()
        for number, word in enumerate(words):
            if number in variables and (forms[variables[number]].ndim == 1 or word == "weight"):
                found[variables[number]] = f"{layer}.{word}"
    return found


def _flux(forms: Forms) -> list[_Data]:
    names = _by_word(forms, _FLUX)
    kernels = {n: t for n, t in forms.items() if n.endswith("weight") and t.ndim > 2}
    rules = _axes(kernels, lambda ndim: list(reversed(range(ndim))))
    for ndim in sorted({t.ndim for t in kernels.values()}):
        same = [n for n, t in kernels.items() if t.ndim == ndim]
        rules.append({"flip": _literal(same), "axes": list(range(2, ndim))})
    return [*rules, *_renames(names)]


def _axes(kernels: Forms, order: Callable[[int], list[int]]) -> list[_Data]:
    rules = []
    for ndim in sorted({t.ndim for t in kernels.values()} - {0, 1}):
        same = [name for name, t in kernels.items() if t.ndim == ndim]
        rules.append({"transpose": _literal(same), "order": order(ndim)})
    return rules


def _literal(names: list[str]) -> str:
    return "|".join(map(re.escape, names))


def _renames(names: Mapping[str, str]) -> list[_Data]:
    changed = {old: new for old, new in names.items() if old != new}
    return [{"rename": changed}] if changed else []


LAYOUTS: Mapping[str, Callable[[Forms], list[_Data]]] = {
    "torch": lambda _: [],
    "flax": _channels_last,
    "keras": _channels_last,
    "flux": _flux,
}
"""Each layout's function from the tensors of a file to rules."""
