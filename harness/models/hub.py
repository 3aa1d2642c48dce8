"""A file of a model hub, byte for byte from any offset, through huggingface_hub's session, token and error classes.

The library's own download is not used for the bytes: it keeps what it received in a buffer of 10 MiB that a cut loses,
and it hashes nothing. Nor are its headers: to make them it asks the hub for a list of programs that it may report on.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import BundleError, EnvironmentLacking, IntegrityError, UsageError
from harness.models.partfile import PartFile
from harness.models.registry import HubSource

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

ATTEMPTS_WITHOUT_PROGRESS = 5
FIRST_WAIT_S = 0.25  # doubled by each attempt that brings no byte
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Hub:
    """How the hub is reached; HF_TOKEN, HF_HUB_OFFLINE and proxies are read by huggingface_hub itself."""

    endpoint: str
    timeout_s: float = 30.0  # without a single byte
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def from_environment(cls) -> Hub:
        """The hub that HF_ENDPOINT names, else the public one."""
        from huggingface_hub import constants  # noqa: PLC0415  (heavy, and only a download needs it)

        return cls(endpoint=(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/"))

    def page(self, source: HubSource) -> str:
        """The model's page, for people."""
        return f"{self.endpoint}/{source.repository}"


def download(hub: Hub, source: HubSource, part: PartFile) -> None:
    """Fetches what the part file lacks; a cut continues where it happened, five attempts without a byte end it.

    Raises:
        EnvironmentLacking: the hub cannot be reached, or the file is gated, private or gone.
        IntegrityError: the hub says itself that it holds other bytes.
    """
    fruitless = 0
    while part.lacking_bytes:
        had_bytes = part.size_bytes
        trouble = _attempt(hub, source, part)
        if not part.lacking_bytes:
            return
        fruitless = 0 if part.size_bytes > had_bytes else fruitless + 1
        if fruitless >= ATTEMPTS_WITHOUT_PROGRESS:
            raise EnvironmentLacking(
                f"{trouble}; {fruitless} attempts brought no byte",
                where=hub.page(source),
                cure=f"check the network and HF_ENDPOINT, then fetch again: it continues at {part.size_bytes} bytes",
            )
        part.progress.note(part.name, f"{trouble}; going on at byte {part.size_bytes}")
        hub.sleep(FIRST_WAIT_S * 2**fruitless)


def _attempt(hub: Hub, source: HubSource, part: PartFile) -> str:
    """One request; returns what cut it short."""
    import httpx2  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled  # noqa: PLC0415

    try:
        with _opened(hub, source, part.size_bytes) as response:
            _fill(part, response)
    except OfflineModeIsEnabled:
        cure = "unset HF_HUB_OFFLINE"
        raise EnvironmentLacking("offline mode is on", where=hub.page(source), cure=cure) from None
    except HfHubHTTPError as error:
        if error.response.status_code in TRANSIENT_STATUS:
            return f"the hub answered {error.response.status_code}"
        raise _explained(error, hub, source) from None
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise UsageError(f"is no address: {error}", where=hub.endpoint, cure="correct HF_ENDPOINT") from None
    except httpx2.HTTPError as error:
        return f"the connection failed ({type(error).__name__}: {error})"
    return "the connection ended early"


@contextmanager
def _opened(hub: Hub, source: HubSource, start: int) -> Iterator[httpx2.Response]:
    """The answer to a request for all bytes from `start`; redirects followed, the token kept from foreign hosts."""
    from huggingface_hub import constants, get_session, get_token, hf_hub_url, hf_raise_for_status  # noqa: PLC0415

    url = hf_hub_url(source.repository, source.file, revision=source.revision, endpoint=hub.endpoint)
    headers = {"User-Agent": "moe-edge-bundle", "Accept-Encoding": "identity"}
    if (token := get_token()) and not constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
        headers["Authorization"] = f"Bearer {token}"
    if start:
        headers["Range"] = f"bytes={start}-"
    with get_session().stream("GET", url, headers=headers, timeout=hub.timeout_s, follow_redirects=True) as response:
        if response.is_error:
            response.read()  # the library wants the body for its message
        hf_raise_for_status(response)
        for answer in (*response.history, response):
            _refuse_other_bytes(answer, source, hub)
        yield response


def _refuse_other_bytes(answer: httpx2.Response, source: HubSource, hub: Hub) -> None:
    """The hub tells the SHA-256 of a large file in its first answer: no need to fetch gigabytes to learn that."""
    told = answer.headers.get("X-Linked-Etag", "").removeprefix("W/").strip('"')
    if SHA256.fullmatch(told) and told != source.sha256:
        raise IntegrityError(
            f"the hub holds {source.file} with sha256 {told}, expected {source.sha256}",
            where=f"{hub.page(source)} at revision {source.revision}",
            cure="check the entry in configs/models.toml, and HF_ENDPOINT if it is set",
        )


def _fill(part: PartFile, response: httpx2.Response) -> None:
    """Appends the body as it arrives; at most one piece more than the file should have."""
    start = _start_of(response)
    if start not in (0, part.size_bytes):
        raise IntegrityError(
            f"asked for bytes from {part.size_bytes}, got bytes from {start}",
            where=str(response.url),
            cure="a proxy on the way is broken: go round it",
        )
    if start != part.size_bytes:
        part.progress.note(part.name, "the server cannot continue a download: starting again")
        part.restart()
    for chunk in response.iter_raw():
        part.append(chunk)
        if not part.lacking_bytes:
            return


def _start_of(response: httpx2.Response) -> int:
    """First byte that the body holds: a server that ignores ranges answers 200 and begins at 0."""
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if response.status_code == 206 and match else 0


def _explained(error: HfHubHTTPError, hub: Hub, source: HubSource) -> BundleError:
    """Which page, which token, what else would do."""
    from huggingface_hub.errors import (  # noqa: PLC0415
        GatedRepoError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = hub.page(source)
    elsewhere = f"a copy from anywhere will do: put it into the models folder as {source.file_name} and run verify"
    token = f"make a read token at {hub.endpoint}/settings/tokens and set HF_TOKEN to it"
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return EnvironmentLacking(
            "is gated", where=page, cure=f"accept the terms on that page, {token}; or {elsewhere}"
        )
    if isinstance(error, RevisionNotFoundError):
        return EnvironmentLacking(f"revision {source.revision} is gone", where=page, cure=elsewhere)
    if isinstance(error, RemoteEntryNotFoundError):
        what = f"{source.file} is not in revision {source.revision}"
        return EnvironmentLacking(what, where=page, cure=elsewhere)
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403, 404, 410):
        what = f"the hub answered {status}: gone, renamed, or not for everyone"
        return EnvironmentLacking(
            what, where=page, cure=f"look at that page; if it asks for a login, {token}; or {elsewhere}"
        )
    if status == 416:
        return IntegrityError("the hub's file is shorter than its pin says", where=page, cure=elsewhere)
    return EnvironmentLacking(f"the hub answered {status}", where=page, cure=f"fetch again later; or {elsewhere}")
