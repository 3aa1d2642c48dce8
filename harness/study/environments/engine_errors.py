"""What an engine says when it can't, turned into what a user can do; known by its words, for it has no codes."""

from __future__ import annotations

from harness.errors import EnvironmentLacking

SPACE_CURE = "free some space, for instance with `docker system prune`"
RUNTIME_CURE = (
    "install nvidia-container-toolkit, run `sudo nvidia-ctk runtime configure --runtime=docker`, restart Docker"
)
INSTALL_CURE = "install Docker Engine 20.10 or later and start it, set DOCKER_HOST, or use --env native"
NO_PERMISSION = ("Permission denied", "PermissionError")
NO_ENGINE = ("FileNotFoundError", "No such file", "Connection refused", "ConnectionRefused")
NO_BASE = ("pull access denied", "manifest unknown", ": not found", "lookup", "dial tcp", "i/o timeout")


def unreachable(error: Exception, where: str) -> EnvironmentLacking:
    """No answer from an engine; `where` is its address or a name for it."""
    words = str(error)
    if where.startswith("ssh://"):
        cure = "`ssh` to that host must work without a password and know its key, and `docker` must run there"
        return EnvironmentLacking(f"the engine can't be reached over ssh: {words}", where=where, cure=cure)
    if any(sign in words for sign in NO_PERMISSION):
        cure = "sudo usermod -aG docker $USER, then log in again"
        return EnvironmentLacking("no permission to use the Docker engine", where=where, cure=cure)
    if any(sign in words for sign in NO_ENGINE):
        return EnvironmentLacking("no Docker engine answers", where=where, cure=INSTALL_CURE)
    return EnvironmentLacking(f"the Docker engine can't be used: {words}", where=where, cure="see `docker version`")


def refused(words: str, where: str = "Docker") -> EnvironmentLacking:
    """The engine answers, but will not do what was asked."""
    lowered = words.lower()
    cure = "./artifact doctor"
    if "no space left" in lowered:
        cure = SPACE_CURE
    elif ("runtime" in lowered and ("unknown" in lowered or "not found" in lowered)) or "device driver" in lowered:
        cure = RUNTIME_CURE
    elif "docker-init" in lowered:
        cure = "install tini (docker-init), a part of Docker Engine"
    return EnvironmentLacking(words, where=where, cure=cure)


def failed_build(words: str, where: str) -> EnvironmentLacking:
    """A step of a build failed."""
    lowered = words.lower()
    cure = "the lines above tell why"
    if "no space left" in lowered:
        cure = SPACE_CURE
    elif any(sign in lowered for sign in NO_BASE):
        cure = "the base can't be pulled here: name one that the engine has with --base, or set HTTPS_PROXY"
    return EnvironmentLacking(f"the build failed: {words}", where=where, cure=cure)
