"""From what a plan asks for to bytes on this disk: released files verified, proxies generated, all described."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.errors import UsageError
from harness.models import check, checksums, clone, fetch, proxy, shapes, templates
from harness.models.partfile import Progress as FetchProgress
from harness.models.proxy import ProxyFile
from harness.models.registry import Model, Registry
from harness.models.shapes import Shape
from harness.records import ModelRef
from harness.study.plan import ModelKey
from harness.terms import Weights

BITS_PER_WEIGHT = {"F16": 16, "Q8_0": 9}  # blocks carry scales
DEFAULT_BITS = 5  # the four-bit mixes, with their wider head


@dataclass(frozen=True, kw_only=True)
class Located:
    """Weights on this disk and what a record says of them."""

    path: Path
    ref: ModelRef


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where weights lie."""

    models: Path
    proxies: Path


class Listener(Protocol):
    """Told what is being made ready; the cli draws it."""

    def step(self, text: str) -> None:
        """A file is being fetched, hashed or written."""

    def bytes_done(self, done: int, total: int) -> None:
        """How far."""


def weights_at_hand(registry: Registry, names: Sequence[str], folders: Folders) -> bool:
    """Whether every released file is there and verified: then `auto` takes them."""
    models = [registry.get(name) for name in names]
    if any(model.source is None for model in models):
        return False
    if not all((folders.models / model.released().file_name).exists() for model in models):
        return False
    return all(checksums.verified_sha256(model, folders.models) == model.released().sha256 for model in models)


def planned_bytes(registry: Registry, key: ModelKey) -> int:
    """File size of a model, without writing anything: exact for released files, within a tenth for proxies."""
    model = registry.get(key.name)
    if model.source is not None and (key.weights is Weights.RELEASED or key.variant == "clone"):
        return model.source.size_bytes
    shape, _ = variant_shape(shapes.of(model), key.variant)
    elements = templates.parameters_total(shape)
    return elements * BITS_PER_WEIGHT.get(key.file_type, DEFAULT_BITS) // 8


def locate(
    registry: Registry,
    keys: Sequence[ModelKey],
    folders: Folders,
    listener: Listener,
    *,
    rehash: bool = False,
    on_fetch: FetchProgress | None = None,
) -> Mapping[ModelKey, Located]:
    """Bring every model of a plan to this disk.

    Raises:
        UsageError: a variant that makes no sense, or text for a model without released weights.
        EnvironmentLacking: no disk space or no network.
        IntegrityError: a file is not what the registry promises.
    """
    released = {key.name: registry.get(key.name) for key in keys if key.weights is Weights.RELEASED}
    if released:
        listener.step(f"released weights: {', '.join(released)}")
        fetch.fetch(tuple(released.values()), folders.models, progress=on_fetch)
    return {key: _locate(registry.get(key.name), key, folders, listener, rehash=rehash) for key in keys}


def _locate(model: Model, key: ModelKey, folders: Folders, listener: Listener, *, rehash: bool) -> Located:
    if key.weights is Weights.RELEASED:
        return _released(model, folders, rehash=rehash)
    listener.step(f"proxy of {key.label}")
    made = _proxy(model, key, folders, listener.bytes_done)
    return Located(path=made.path, ref=_proxy_ref(model, key, made))


def _released(model: Model, folders: Folders, *, rehash: bool) -> Located:
    path = folders.models / model.released().file_name
    checksums.require(checksums.verify((model,), folders.models, rehash=rehash))
    file = check.check(path, architecture=model.architecture, file_type=model.file_type)
    size = check.weight_bytes(file)
    ref = ModelRef(
        name=model.name,
        architecture=model.architecture,
        file=path.name,
        sha256=model.released().sha256,
        size_bytes=model.released().size_bytes,
        weights=Weights.RELEASED,
        file_type=model.file_type,
        parameters_total=model.parameters_total,
        parameters_active=model.parameters_active,
        expert_count=file.count("expert_count"),
        expert_used_count=file.count("expert_used_count"),
        weight_bytes_total=size.total_bytes,
        weight_bytes_active=size.active_bytes,
        licence=model.licence,
    )
    return Located(path=path, ref=ref)


def _proxy(model: Model, key: ModelKey, folders: Folders, progress: Callable[[int, int], None]) -> ProxyFile:
    if key.variant == "clone":
        return _clone(model, folders, progress)
    shape, skew = variant_shape(shapes.of(model), key.variant)
    return proxy.ensure(shape, key.file_type, cache_dir=folders.proxies, progress=progress, router_skew=skew)


def _clone(model: Model, folders: Folders, progress: Callable[[int, int], None]) -> ProxyFile:
    source = folders.models / model.released().file_name
    out = folders.proxies / f"{model.name}-clone-{model.released().sha256[:16]}.proxy.gguf"
    return clone.clone(source, out=out, progress=progress)


def variant_shape(shape: Shape, variant: str) -> tuple[Shape, float]:
    """A shape as a suite's brackets ask for it, and the skew of its router.

    Known: `tiny`, `experts=N`, `used=N`, `expert-ffn=N`, `dense-twin=active`, `dense-twin=total`, `router-skew=X`.

    Raises:
        UsageError: anything else.
    """
    skew, counts = 0.0, {}
    for part in (part.strip() for part in variant.split(",") if part.strip()):
        name, _, value = part.partition("=")
        match name:
            case "tiny":
                shape = shapes.tiny(shape)
            case "dense-twin" if value in ("active", "total"):
                shape = shapes.dense_twin(shape, total=value == "total")
            case "experts" | "used" | "expert-ffn" if value.isdecimal():
                counts[name.replace("-", "_")] = int(value)
            case "router-skew" if value.replace(".", "", 1).isdecimal():
                skew = float(value)
            case _:
                raise UsageError(f"unknown variant {part!r}", where=f"[{variant}]", cure="see configs/suites/full.toml")
    return (shapes.varied(shape, **counts) if counts else shape), skew


def _proxy_ref(model: Model, key: ModelKey, made: ProxyFile) -> ModelRef:
    return ModelRef(
        name=model.name,
        architecture=made.architecture,
        file=made.path.name,
        sha256=made.sha256,
        size_bytes=made.size_bytes,
        weights=Weights.PROXY,
        file_type=made.file_type or key.file_type,
        parameters_total=made.parameters_total,
        parameters_active=made.parameters_active,
        expert_count=made.expert_count,
        expert_used_count=made.expert_used_count,
        weight_bytes_total=made.weight_bytes_total,
        weight_bytes_active=made.weight_bytes_active,
        variant=key.variant,
    )
