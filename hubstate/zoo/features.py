"""Feature maps at several resolutions, from the front part of a classification network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from hubstate.filters import LEFT_OUT
from hubstate.zoo.parts import CHANNELS_LAST, STAGES

__all__ = ["FeatureInfo", "Features", "featured"]

F = TypeVar("F", bound=Callable[..., Any])


class FeatureInfo(NamedTuple):
    """One of the feature maps that a network returns."""

    path: str
    """The module that makes it."""
    channels: int
    reduction: int
    """How many times smaller than the image it is, in height and in width."""


class Features(nn.Module):
    """The front part of a network: images to feature maps, the largest first.

    It has the network's modules under the network's names, as far as its last stage; what comes
    after that is left out. So weights of the whole network fit, less those that were left out.

    Args:
        network: a row of modules, registered in the order in which they are called; it is taken
            apart, and of no use afterwards.
        stages: reduction to the dotted path of the module that makes the map.
        channels_last: whether the stages make (N, height, width, channels).

    >>> network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    >>> model = Features(network, {1: "0", 2: "1"})
    >>> [tuple(each.shape) for each in model(torch.zeros(1, 1, 4, 4))], model.left_out
    ([(1, 4, 4, 4), (1, 4, 2, 2)], ('2', '3'))
    """

    def __init__(
        self, network: nn.Module, stages: Mapping[int, str], *, channels_last: bool = False
    ) -> None:
        super().__init__()
        self._stages = {path: reduction for reduction, path in stages.items()}
        self._channels_last = channels_last
        row = [path for path, _ in self._row(network)]
        *_, last = self._stages
        vars(self)[LEFT_OUT] = tuple(row[row.index(last) + 1 :])
        for path in self.left_out:
            holder, _, name = path.rpartition(".")
            delattr(network.get_submodule(holder), name)
        for name, module in network.named_children():
            self.add_module(name, module)

    @property
    def left_out(self) -> tuple[str, ...]:
        """The dotted paths of the modules that are not part of it."""
        paths: tuple[str, ...] = vars(self)[LEFT_OUT]
        return paths

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """What the maps are; found by a pass without memory."""
        state = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        bare = {name: torch.empty_like(tensor, device="meta") for name, tensor in state.items()}
        first = next(m for m in self.modules() if isinstance(m, nn.Conv2d))
        options: dict[str, Any] = {"dtype": first.weight.dtype, "device": "meta"}
        images = torch.empty(2, first.in_channels, 64, 64, **options)
        with torch.no_grad():
            maps = torch.func.functional_call(self, bare, (images,))
        return tuple(
            FeatureInfo(path, found.shape[1], reduction)
            for (path, reduction), found in zip(self._stages.items(), maps, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps (N, channels, H / reduction, W / reduction) of images (N, in_chans, H, W)."""
        maps = []
        for path, module in self._row(self):
            x = module(x)
            if path in self._stages:
                maps.append(x.permute(0, 3, 1, 2) if self._channels_last else x)
        return maps

    def _row(self, module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
        """The modules in order; those that merely hold stages are entered."""
        for name, child in module.named_children():
            path = prefix + name
            if any(stage.startswith(f"{path}.") for stage in self._stages):
                yield from self._row(child, f"{path}.")
            else:
                yield path, child


def featured(name: str) -> Callable[[F], F]:
    """Give the function of a builder an argument ``features_only``, if its stages are known.

    Args:
        name: of the builder. Its function makes the whole network, and is called with keywords.
    """
    stages = STAGES.get(name)

    def decorate(function: F) -> F:
        if stages is None:
            return function

        def build(*, features_only: bool = False, **arguments: Any) -> Any:
            network = function(**arguments)
            if not features_only:
                return network
            return Features(network, stages, channels_last=name in CHANNELS_LAST)

        return cast("F", _dressed(build, function))

    return decorate


def _dressed(build: Callable[..., Any], function: Callable[..., Any]) -> Any:
    """Named and signed as the function is, with ``features_only`` as its last argument."""
    for attribute in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(build, attribute, getattr(function, attribute))
    signature = inspect.signature(function)
    keyword = inspect.Parameter.KEYWORD_ONLY
    option = inspect.Parameter("features_only", keyword, default=False, annotation="bool")
    public: Any = build
    public.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])
    return public
