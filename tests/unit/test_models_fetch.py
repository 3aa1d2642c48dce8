"""Downloads against a hub on loopback: cuts, redirects, wrong bytes, refusals, several processes at once."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from fetching import FILE, REPOSITORY, REVISION, Watcher, model_of
from hub import Answer, FakeHub, fake_hub

from harness.errors import BundleError, EnvironmentLacking, ExitCode, IntegrityError, UsageError
from harness.models import checksums
from harness.models.fetch import FetchState, fetch
from harness.models.hub import Hub
from harness.models.partfile import part_path
from harness.models.registry import HubSource, Model

LAST_CHUNK_BYTES = 64 << 10
ROOT = Path(__file__).parents[2]


def hub_model(content: bytes, *, size_bytes: int | None = None) -> Model:
    return model_of(
        HubSource(
            repository=REPOSITORY,
            revision=REVISION,
            file=FILE,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=size_bytes or len(content),
        )
    )


@pytest.fixture
def content() -> bytes:
    return random.Random(7).randbytes(1_200_001)


@pytest.fixture
def server(content: bytes) -> Iterator[FakeHub]:
    with fake_hub() as hub:
        hub.put(REPOSITORY, REVISION, FILE, content)
        yield hub
        huggingface_hub.close_session()


@pytest.fixture
def hub(server: FakeHub) -> Hub:
    return Hub(endpoint=server.endpoint, timeout_s=5.0, sleep=lambda _seconds: None)


def refused(model: Model, folder: Path, hub: Hub) -> BundleError:
    with pytest.raises(BundleError) as caught:
        fetch([model], folder, hub=hub)
    assert not (folder / FILE).exists()
    return caught.value


def test_a_file_arrives_whole_and_is_not_fetched_twice(
    tmp_path: Path, server: FakeHub, hub: Hub, content: bytes
) -> None:
    watcher = Watcher()
    (first,) = fetch([hub_model(content)], tmp_path, progress=watcher, hub=hub)
    (second,) = fetch([hub_model(content)], tmp_path, hub=hub)
    assert (first.state, second.state) == (FetchState.FETCHED, FetchState.PRESENT)
    assert (tmp_path / FILE).read_bytes() == content
    assert (watcher.begun, watcher.bytes, watcher.ended) == ([0], len(content), 1)
    assert server.sent_bytes() == len(content)
    assert not list(tmp_path.glob("*.part"))


def test_the_hash_that_was_computed_on_the_way_is_remembered(tmp_path: Path, hub: Hub, content: bytes) -> None:
    fetch([hub_model(content)], tmp_path, hub=hub)
    assert checksums.verify_model(hub_model(content), tmp_path).cached


def test_twenty_cuts_at_random_offsets(tmp_path: Path, server: FakeHub, hub: Hub, content: bytes) -> None:
    dice = random.Random(3)
    server.answers.extend(Answer(cut_after_bytes=dice.randrange(1, 55_000)) for _ in range(20))
    fetch([hub_model(content)], tmp_path, hub=hub)
    assert (tmp_path / FILE).read_bytes() == content
    assert len(server.starts()) == 21
    assert server.sent_bytes() == len(content)  # a cut by FIN loses nothing, so nothing came twice


def test_connections_reset_in_the_middle(tmp_path: Path, server: FakeHub, hub: Hub, content: bytes) -> None:
    dice = random.Random(4)
    cuts = [Answer(cut_after_bytes=dice.randrange(1, 140_000), reset=True, piece_wait_s=0.001) for _ in range(5)]
    server.answers.extend(cuts)
    fetch([hub_model(content)], tmp_path, hub=hub)
    assert (tmp_path / FILE).read_bytes() == content
    assert server.sent_bytes() - len(content) <= len(cuts) * LAST_CHUNK_BYTES  # what the kernel dropped with the reset


def test_a_killed_process_loses_only_what_was_in_flight(
    tmp_path: Path, server: FakeHub, hub: Hub, content: bytes
) -> None:
    server.answers.append(Answer(cut_after_bytes=len(content) // 2, stall=True))  # it can't end before it is killed
    process = start_fetching(tmp_path, server, content)
    part = part_path(hub_model(content).released(), tmp_path)
    while not (part.exists() and part.stat().st_size > 100_000):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    had_bytes = part.stat().st_size
    fetch([hub_model(content)], tmp_path, hub=hub)
    assert server.starts() == [0, had_bytes]
    assert {request.path for request in server.log if request.origin == "hub"} == set(server.files)  # nothing else
    assert (tmp_path / FILE).read_bytes() == content


def test_two_processes_at_once_leave_one_good_file(tmp_path: Path, server: FakeHub, content: bytes) -> None:
    server.default = Answer(piece_wait_s=0.001)
    processes = [start_fetching(tmp_path, server, content) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert (tmp_path / FILE).read_bytes() == content
    assert server.sent_bytes() == len(content)


def test_a_second_thread_waits_and_says_so(tmp_path: Path, server: FakeHub, hub: Hub, content: bytes) -> None:
    server.default = Answer(piece_wait_s=0.002)
    watchers = [Watcher(), Watcher()]
    threads = [
        threading.Thread(target=fetch, args=([hub_model(content)], tmp_path), kwargs={"progress": watcher, "hub": hub})
        for watcher in watchers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.sent_bytes() == len(content)
    assert [note for watcher in watchers for note in watcher.notes] == [
        "another process is at this file: waiting for it"
    ]


def start_fetching(folder: Path, server: FakeHub, content: bytes) -> subprocess.Popen[bytes]:
    """A fetch in a process of its own, told by the environment where the hub is."""
    code = (
        "import sys; sys.path[:0] = sys.argv[2:4]\n"
        "from pathlib import Path; from test_models_fetch import fetch, hub_model\n"
        "import hashlib; content = Path(sys.argv[4]).read_bytes()\n"
        "fetch([hub_model(content)], Path(sys.argv[1]))\n"
    )
    original = folder.parent / f"{folder.name}.original"
    original.write_bytes(content)
    paths = [str(ROOT), str(ROOT / "tests" / "fixtures")]
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'tests' / 'unit')!r})\n{code}"]
    fresh = folder.parent / f"{folder.name}.hf"  # nothing that an earlier fetch left for the library
    environ = {**os.environ, "HF_ENDPOINT": server.endpoint, "HF_HOME": str(fresh)}
    return subprocess.Popen([*command, str(folder), *paths, str(original)], env=environ)


def test_the_token_goes_to_the_hub_and_not_to_the_store(
    tmp_path: Path, server: FakeHub, hub: Hub, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch([hub_model(content)], tmp_path, hub=hub)
    assert [(request.origin, request.authorization) for request in server.log] == [
        ("hub", "Bearer hf_secret"),
        ("store", None),
    ]


def test_the_hub_is_the_one_that_the_environment_names(
    tmp_path: Path, server: FakeHub, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint + "/")
    fetch([hub_model(content)], tmp_path)
    assert server.log[0].path == f"/{REPOSITORY}/resolve/{REVISION}/{FILE}"


def test_a_proxy_is_honoured(
    tmp_path: Path, server: FakeHub, hub: Hub, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    huggingface_hub.close_session()
    monkeypatch.setenv("http_proxy", server.endpoint)
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # the store is reached directly
    fetch([hub_model(content)], tmp_path, hub=replace(hub, endpoint="http://hub.invalid"))
    assert [request.origin for request in server.log] == ["hub", "store"]


def test_wrong_bytes_are_kept_aside_and_never_used(tmp_path: Path, server: FakeHub, hub: Hub, content: bytes) -> None:
    wrong = b"X" + content[1:]
    server.answers.append(Answer(body=wrong))
    error = refused(hub_model(content), tmp_path, hub)
    assert error.exit_code is ExitCode.INTEGRITY
    assert hashlib.sha256(content).hexdigest() in error.what
    assert hashlib.sha256(wrong).hexdigest() in error.what
    assert (tmp_path / f"{FILE}.corrupt").read_bytes() == wrong
    assert fetch([hub_model(content)], tmp_path, hub=hub)[0].state is FetchState.FETCHED


def test_a_body_without_end_is_cut_off(tmp_path: Path, server: FakeHub, hub: Hub, content: bytes) -> None:
    server.answers.append(Answer(body=content + bytes(20_000_000)))
    assert isinstance(refused(hub_model(content), tmp_path, hub), IntegrityError)
    assert (tmp_path / f"{FILE}.corrupt").stat().st_size <= len(content) + LAST_CHUNK_BYTES


def test_a_wrong_file_that_was_there_is_kept_aside(tmp_path: Path, hub: Hub, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(b"something else")
    watcher = Watcher()
    fetch([hub_model(content)], tmp_path, progress=watcher, hub=hub)
    assert (tmp_path / FILE).read_bytes() == content
    assert (tmp_path / f"{FILE}.corrupt").read_bytes() == b"something else"
    assert f"kept as {FILE}.corrupt" in watcher.notes[0]


def test_a_hub_that_holds_other_bytes_is_found_out_before_they_are_fetched(
    tmp_path: Path, server: FakeHub, hub: Hub, content: bytes
) -> None:
    server.answers.append(Answer(told_sha256="f" * 64))
    watcher = Watcher()
    with pytest.raises(IntegrityError, match=f"with sha256 {'f' * 64}"):
        fetch([hub_model(content)], tmp_path, progress=watcher, hub=hub)
    assert watcher.bytes == 0


def test_a_server_without_ranges_begins_again(tmp_path: Path, server: FakeHub, hub: Hub, content: bytes) -> None:
    server.answers.extend([Answer(cut_after_bytes=100_000), Answer(ignore_range=True)])
    watcher = Watcher()
    fetch([hub_model(content)], tmp_path, progress=watcher, hub=hub)
    assert (tmp_path / FILE).read_bytes() == content
    assert watcher.begun == [0, 0]
    assert "the server cannot continue a download: starting again" in watcher.notes


def test_another_range_than_asked_for_is_refused(tmp_path: Path, server: FakeHub, hub: Hub, content: bytes) -> None:
    server.answers.extend([Answer(cut_after_bytes=100_000), Answer(wrong_start=True)])
    assert "asked for bytes from 100000, got bytes from 100001" in refused(hub_model(content), tmp_path, hub).what


def test_a_file_shorter_than_its_pin(tmp_path: Path, server: FakeHub, hub: Hub, content: bytes) -> None:
    error = refused(hub_model(content, size_bytes=len(content) + 1), tmp_path, hub)
    assert "shorter than its pin" in error.what


def test_errors_of_the_server_are_tried_again(tmp_path: Path, server: FakeHub, hub: Hub, content: bytes) -> None:
    server.answers.extend(Answer(status=status) for status in (503, 429, 500, 504))
    watcher = Watcher()
    fetch([hub_model(content)], tmp_path, progress=watcher, hub=hub)
    assert watcher.notes == [f"the hub answered {status}; going on at byte 0" for status in (503, 429, 500, 504)]


def test_a_server_that_falls_silent_is_left(tmp_path: Path, server: FakeHub, hub: Hub, content: bytes) -> None:
    server.answers.append(Answer(cut_after_bytes=100_000, stall=True))
    fetch([hub_model(content)], tmp_path, hub=replace(hub, timeout_s=0.2))
    assert server.starts() == [0, 100_000]
    assert (tmp_path / FILE).read_bytes() == content


def test_a_slow_server_is_waited_for(tmp_path: Path, server: FakeHub, hub: Hub) -> None:
    small = bytes(100_000)
    server.put(REPOSITORY, REVISION, FILE, small)
    server.answers.append(Answer(piece_wait_s=0.05))
    fetch([hub_model(small)], tmp_path, hub=replace(hub, timeout_s=1.0))
    assert server.starts() == [0]


def test_five_attempts_without_a_byte_are_enough(tmp_path: Path, server: FakeHub, hub: Hub, content: bytes) -> None:
    waits: list[float] = []
    server.answers.append(Answer(cut_after_bytes=70_000))
    server.answers.extend(Answer(cut_after_bytes=0) for _ in range(5))
    error = refused(hub_model(content), tmp_path, replace(hub, sleep=waits.append))
    assert isinstance(error, EnvironmentLacking)
    assert "it continues at 70000 bytes" in error.cure
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0]


def test_a_hub_out_of_reach(tmp_path: Path, hub: Hub, content: bytes) -> None:
    error = refused(hub_model(content), tmp_path, replace(hub, endpoint="http://127.0.0.1:9"))
    assert isinstance(error, EnvironmentLacking)
    assert "the connection failed" in error.what
    with pytest.raises(UsageError, match="correct HF_ENDPOINT"):
        fetch([hub_model(content)], tmp_path, hub=replace(hub, endpoint="hub.example"))


def test_offline_mode_is_respected(
    tmp_path: Path, server: FakeHub, hub: Hub, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = refused(hub_model(content), tmp_path, hub)
    assert (error.what, error.cure) == ("offline mode is on", "unset HF_HUB_OFFLINE")
    assert server.log == []


@pytest.mark.parametrize(
    ("answer", "what", "cure"),
    [
        (
            Answer(status=401, error_code="GatedRepo"),
            "is gated",
            "accept the terms on that page, make a read token at ",
        ),
        (Answer(status=403, error_code="GatedRepo"), "is gated", "set HF_TOKEN"),
        (Answer(status=401), "the hub answered 401", "set HF_TOKEN"),
        (Answer(status=401, error_code="RepoNotFound"), "gone, renamed, or not for everyone", "look at that page"),
        (Answer(status=404, error_code="RepoNotFound"), "gone, renamed, or not for everyone", "a copy from anywhere"),
        (Answer(status=404, error_code="RevisionNotFound"), f"revision {REVISION} is gone", "a copy from anywhere"),
        (Answer(status=404, error_code="EntryNotFound"), f"{FILE} is not in revision", "a copy from anywhere"),
        (Answer(status=404), "the hub answered 404", "a copy from anywhere"),
        (Answer(status=418), "the hub answered 418", "fetch again later"),
    ],
)
def test_refusals_tell_page_token_and_what_else_would_do(
    tmp_path: Path, server: FakeHub, hub: Hub, content: bytes, answer: Answer, what: str, cure: str
) -> None:
    server.answers.append(answer)
    error = refused(hub_model(content), tmp_path, hub)
    assert error.exit_code is ExitCode.ENVIRONMENT
    assert what in error.what
    assert cure in error.cure
    assert error.where == f"{server.endpoint}/{REPOSITORY}"
    assert len(server.log) == 1  # an answer that will not change is not asked for again


def test_space_is_checked_before_the_first_byte(tmp_path: Path, server: FakeHub, hub: Hub, content: bytes) -> None:
    error = refused(hub_model(content, size_bytes=1 << 60), tmp_path, hub)
    assert error.exit_code is ExitCode.ENVIRONMENT
    assert "are needed" in error.what
    assert server.log == []


def test_a_folder_that_cannot_be_made(tmp_path: Path, hub: Hub, content: bytes) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(EnvironmentLacking, match="set MOE_BUNDLE_MODELS"):
        fetch([hub_model(content)], tmp_path / "file", hub=hub)
