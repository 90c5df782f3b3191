"""The probe: a seeded input and the output expected of it, so that a model can prove itself.

Weights that load without an error can still compute something else: another epsilon, another
padding, a swapped channel order. A probe is recorded when a model is published and run again by
whoever wants to know.

The input is uniform noise of unit variance taken from SHAKE-128 (FIPS 202) of the seed, so it
is the same for every version of every library. Output that is large is sampled at an even stride.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass

import numpy
import torch
from torch import nn

from hubstate.manifest import Probe, ProbeOutput

__all__ = ["check_probe", "make_probe", "probe_input"]

# Rounding differs between thread counts, instruction sets and convolution algorithms by about
# 1e-6 of an output's spread on shallow and 1e-5 on deep networks; a wrong epsilon or padding
# moves it by 1e-2 and more. One part in a thousand lies between the two.
TOLERANCE = 1e-3
_SAMPLES = 256  # values kept of each output


def probe_input(seed: int, shape: Sequence[int], *, dtype: str = "float32") -> torch.Tensor:
    """The probe's input: the same numbers on every machine.

    Args:
        seed: any integer from 0.
        shape: the whole shape, the batch dimension included.
        dtype: ``float32`` gives uniform noise of mean 0 and variance 1; ``int64`` gives zeros
            and ones, which are tokens of every vocabulary.

    Raises:
        ValueError: another dtype.

    >>> probe_input(0, (1, 2))
    tensor([[ 1.4806, -1.0004]])
    """
    count = math.prod(shape)
    stream = hashlib.shake_128(f"hubstate probe {seed}".encode()).digest(4 * count)
    bits = numpy.frombuffer(stream, dtype="<u4").copy()
    if dtype == "int64":
        return torch.from_numpy((bits >> 31).astype("int64")).reshape(tuple(shape))
    if dtype != "float32":
        raise ValueError(f"a probe's input is float32 or int64, not {dtype!r}")
    unit = bits.astype("float64") / 2**32  # exact, so that the one rounding is to float32
    noise = ((unit * 2 - 1) * math.sqrt(3)).astype("float32")
    return torch.from_numpy(noise).reshape(tuple(shape))


def make_probe(
    model: nn.Module, shape: Sequence[int], *, seed: int = 0, dtype: str = "float32"
) -> Probe:
    """Run a model on the seeded input and keep what it answers.

    The model is run in eval mode and float32 and is left as it was. Tensors in nested tuples,
    lists, mappings and dataclasses of the output each become an entry.

    Raises:
        ValueError: the output holds no tensor, or one that is not finite.
    """
    outputs = []
    for path, tensor in _run(model, probe_input(seed, shape, dtype=dtype)):
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"the model's output {path or 'tensor'} is not finite on the probe")
        stride = max(1, math.ceil(tensor.numel() / _SAMPLES))
        values = tuple(tensor.flatten()[::stride].tolist())
        outputs.append(
            ProbeOutput(path=path, shape=tuple(tensor.shape), stride=stride, values=values)
        )
    if not outputs:
        raise ValueError("the model's output holds no tensor, so there is nothing to probe")
    spread = max(_spread(output.values) for output in outputs)
    return Probe(
        seed=seed,
        shape=tuple(shape),
        dtype=dtype,
        outputs=tuple(outputs),
        rtol=TOLERANCE,
        atol=TOLERANCE * spread,
    )


def check_probe(model: nn.Module, probe: Probe) -> list[str]:
    """Run a model on a recorded probe; each difference beyond the tolerance is one line.

    An empty list means that the model computes what was published. It is run in eval mode and
    float32, and left as it was.

    Raises:
        ValueError: the probe's input is of a dtype that no probe has.

    >>> model = nn.Linear(3, 2)
    >>> probe = make_probe(model, (1, 3))
    >>> check_probe(model, probe)
    []
    """
    found = dict(_run(model, probe_input(probe.seed, probe.shape, dtype=probe.dtype)))
    problems = [
        f"probe output {path or 'tensor'}: not expected, found shape {tuple(tensor.shape)}"
        for path, tensor in found.items()
        if path not in {output.path for output in probe.outputs}
    ]
    for output in probe.outputs:
        problems += _compare(output, found.get(output.path), probe)
    return problems


def _compare(output: ProbeOutput, found: torch.Tensor | None, probe: Probe) -> list[str]:
    name = f"probe output {output.path or 'tensor'}"
    if found is None:
        return [f"{name}: expected shape {output.shape}, found no such output"]
    if tuple(found.shape) != output.shape:
        return [f"{name}: expected shape {output.shape}, found {tuple(found.shape)}"]
    expected = torch.tensor(output.values, dtype=torch.float64)
    sample = found.flatten()[:: output.stride].to(torch.float64)
    error = (sample - expected).abs()
    wrong = ~(error <= probe.atol + probe.rtol * expected.abs())  # so that NaN is wrong
    if not bool(wrong.any()):
        return []
    worst = int(torch.where(error.isnan(), torch.inf, error).argmax())
    return [
        f"{name}: {int(wrong.sum())} of {len(expected)} values differ; the worst, at flat index "
        f"{worst * output.stride}, should be {expected[worst]:.6g} and is {sample[worst]:.6g} "
        f"(rtol {probe.rtol:g}, atol {probe.atol:g})"
    ]


def _run(model: nn.Module, data: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    with _evaluating(model) as ready, torch.no_grad():
        answer = ready(data)
        return [(path, tensor.float()) for path, tensor in _tensors("", answer)]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode and float32 on the CPU; a copy where it is anything else."""
    tensors = [*model.parameters(), *model.buffers()]
    if any(t.device.type != "cpu" or t.dtype != torch.float32 for t in tensors if _floating(t)):
        yield copy.deepcopy(model).to("cpu", torch.float32).eval()
        return
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for module, name, buffer, before in buffers:  # a forward may count, or move an average
            module._buffers[name] = buffer
            if not torch.equal(buffer, before):
                buffer.copy_(before)


def _floating(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point()


def _tensors(path: str, value: object) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
        return
    for name, item in _items(value):
        yield from _tensors(f"{path}.{name}" if path else name, item)


def _items(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, tuple | list):
        yield from ((str(index), item) for index, item in enumerate(value))
    elif is_dataclass(value):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value))


def _spread(values: Sequence[float]) -> float:
    """The largest magnitude: what rounding errors of an output are in proportion to."""
    return max((abs(value) for value in values), default=0.0) or 1.0
