"""Docker contexts as the `docker` command keeps them: which engine it would use.

In $DOCKER_CONFIG or ~/.docker: config.json names the current context, contexts/meta/HASH/meta.json tells where the
engine of each is, contexts/tls/HASH/docker holds its certificates; HASH is the SHA-256 of the context's name. (The SDK
finds contexts only beside a config.json, which `docker context create` alone does not write.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from harness.errors import EnvironmentLacking
from harness.records import Struct

_T = TypeVar("_T", bound=Struct)
DEFAULT = "default"  # the name of what is there without any context
CURE = "see `docker context ls`; DOCKER_CONTEXT, then currentContext of ~/.docker/config.json name it"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where an engine of a context is."""

    host: str
    certificates: Path | None  # folder of ca.pem, cert.pem and key.pem
    verify: bool


class _Config(Struct, frozen=True, forbid_unknown_fields=False):
    current: str = msgspec.field(default=DEFAULT, name="currentContext")


class _Docker(Struct, frozen=True, forbid_unknown_fields=False):
    host: str = msgspec.field(default="", name="Host")
    skip_verify: bool = msgspec.field(default=False, name="SkipTLSVerify")


class _Endpoints(Struct, frozen=True, forbid_unknown_fields=False):
    docker: _Docker = _Docker()


class _Meta(Struct, frozen=True, forbid_unknown_fields=False):
    endpoints: _Endpoints = msgspec.field(default=_Endpoints(), name="Endpoints")


def endpoint(environ: Mapping[str, str]) -> Endpoint | None:
    """Of the context that is in force; None for the default one.

    Raises:
        EnvironmentLacking: the context does not exist, or its files can't be read.
    """
    folder = Path(environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    asked = environ.get("DOCKER_CONTEXT", "")
    name = asked or _current(folder / "config.json")
    if name == DEFAULT:
        return None
    where = f"Docker context {name}"
    digest = hashlib.sha256(name.encode()).hexdigest()
    path = folder / "contexts" / "meta" / digest / "meta.json"
    if not path.is_file():
        whose = "DOCKER_CONTEXT" if asked else str(folder / "config.json")
        raise EnvironmentLacking(f"there is no such context ({whose} names it)", where=where, cure=CURE)
    found = _read(path, _Meta, where).endpoints.docker
    if not found.host:
        raise EnvironmentLacking("it has no Docker endpoint", where=where, cure=CURE)
    certificates = folder / "contexts" / "tls" / digest / "docker"
    return Endpoint(
        host=found.host, certificates=certificates if certificates.is_dir() else None, verify=not found.skip_verify
    )


def _current(path: Path) -> str:
    if not path.is_file():
        return DEFAULT
    return _read(path, _Config, "Docker's configuration").current or DEFAULT


def _read(path: Path, kind: type[_T], where: str) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, ValueError, RecursionError) as error:
        raise EnvironmentLacking(f"{path} can't be read: {error}", where=where, cure=CURE) from None
