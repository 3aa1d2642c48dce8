"""Before the Docker SDK goes to a host over ssh: can it be reached, does it know us, does a Docker engine answer there?

The SDK speaks ssh by itself (paramiko, with ~/.ssh/config, ~/.ssh/known_hosts and the agent), but when it fails it does
not tell which of the three it was. So one connection of our own goes the same way first, and asks.
"""

from __future__ import annotations

import logging
import socket
import urllib.parse
from pathlib import Path
from typing import Any

import paramiko  # type: ignore[import-untyped]  # it ships no types
from paramiko.ssh_exception import (  # type: ignore[import-untyped]  # it ships no types
    AuthenticationException,
    BadHostKeyException,
    NoValidConnectionsError,
    SSHException,
)

from harness.errors import EnvironmentLacking, UsageError

CONNECT_S = 15.0
ANSWER_S = 30.0
ASK = "docker version --format '{{.Server.Version}}'"
NOT_FOUND = 127


def greet(url: str) -> None:
    """Connect as the SDK will, and ask the `docker` command over there for its engine.

    Raises:
        EnvironmentLacking: not reachable, unknown host key, no key that it takes, no docker, no engine, no permission.
        UsageError: not an address of this kind.
    """
    wanted = _parameters(url)
    logger = logging.getLogger("paramiko")  # what it would print as well is told by the errors raised here
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    client = paramiko.SSHClient()
    client.load_system_host_keys()
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        client.connect(**wanted, timeout=CONNECT_S, banner_timeout=CONNECT_S, auth_timeout=CONNECT_S)
        _, out, err = client.exec_command(ASK, timeout=ANSWER_S)
        code, words = out.channel.recv_exit_status(), err.read().decode("utf-8", "replace").strip()
    except (OSError, EOFError, SSHException) as error:
        raise told(error, url, wanted["hostname"]) from None
    finally:
        client.close()
    if code != 0:
        raise no_engine(code, words, url)


def _parameters(url: str) -> dict[str, Any]:
    """Where and as whom, ~/.ssh/config considered as the SDK does."""
    parts = urllib.parse.urlparse(url)
    if not parts.hostname or parts.path.strip("/") or parts.query:
        raise UsageError("is no address of a host", where=url, cure="ssh://user@host or ssh://user@host:port")
    file = Path("~/.ssh/config").expanduser()
    known: dict[str, Any] = paramiko.SSHConfig.from_path(str(file)).lookup(parts.hostname) if file.exists() else {}
    wanted: dict[str, Any] = {"hostname": known.get("hostname", parts.hostname)}
    wanted["port"] = int(parts.port or known.get("port", 22))
    if user := parts.username or known.get("user"):
        wanted["username"] = user
    if files := known.get("identityfile"):
        wanted["key_filename"] = files
    if through := known.get("proxycommand"):
        wanted["sock"] = paramiko.ProxyCommand(through)
    return wanted


def told(error: Exception, url: str, host: str) -> EnvironmentLacking:
    """What stood in the way of a connection."""
    words = str(error).strip() or type(error).__name__
    if isinstance(error, BadHostKeyException):
        cure = f"if it was set up anew: ssh-keygen -R {host}, then `ssh` to it once"
        return EnvironmentLacking("its host key is not the known one", where=url, cure=cure)
    if isinstance(error, AuthenticationException) or "authentication methods" in words:
        cure = f"ssh-copy-id to {host}, and ssh-add the key: `ssh` must work without a password"
        return EnvironmentLacking(f"the host refuses our key ({words})", where=url, cure=cure)
    if "known_hosts" in words:
        cure = f"`ssh` to {host} once and accept its key, or add it to ~/.ssh/known_hosts"
        return EnvironmentLacking("its host key is not known", where=url, cure=cure)
    if isinstance(error, (NoValidConnectionsError, socket.gaierror, TimeoutError, OSError)):
        cure = "check name and port, that it is switched on, and that sshd runs there"
        return EnvironmentLacking(f"the host can't be reached ({words})", where=url, cure=cure)
    return EnvironmentLacking(f"ssh fails: {words}", where=url, cure="`ssh` to it must work without a password")


def no_engine(code: int, words: str, url: str) -> EnvironmentLacking:
    """What the `docker` command over there said."""
    lowered = words.lower()
    if code == NOT_FOUND or "command not found" in lowered:
        what, cure = "there is no docker over there", "install Docker Engine 20.10 or later on that host"
    elif "permission denied" in lowered:
        what, cure = "no permission to use the Docker engine over there", "there: sudo usermod -aG docker $USER"
    elif "cannot connect" in lowered or "is the docker daemon running" in lowered:
        what, cure = "no Docker engine answers over there", "there: sudo systemctl start docker"
    else:
        what, cure = f"docker over there says: {words.splitlines()[0] if words else code}", "see `docker version` there"
    return EnvironmentLacking(what, where=url, cure=cure)
