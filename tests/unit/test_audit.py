"""The audit of the locks: what nobody looked up is no pass, and an exception needs a reason."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from harness.cli_audit import (
    EXCEPTIONS,
    Answer,
    Dependency,
    Exceptions,
    Silence,
    Vulnerability,
    ask_pip_audit,
    audit,
)
from harness.config_tables import read_toml
from harness.errors import ConfigError, EnvironmentLacking, IntegrityError

ROOT = Path(__file__).resolve().parents[2]
SOUND = Dependency(name="a", version="1")
UNKNOWN = Dependency(name="b", skip_reason="Dependency not found")
BROKEN = Dependency(
    name="c", version="2", vulns=(Vulnerability(id="PYSEC-1", fix_versions=("3",), aliases=("CVE-1",)),)
)


def audited(folder: Path, *answers: Answer | Silence, exceptions: str = "[exceptions]\n") -> list[str]:
    """What is said when the services answer so, in turn."""
    (folder / "requirements").mkdir()
    (folder / "requirements" / EXCEPTIONS).write_text(exceptions)
    said: list[str] = []
    left = list(answers)
    audit(folder, lambda _service: left.pop(0), said.append)
    return said


def test_sound_packages_pass(tmp_path: Path) -> None:
    assert audited(tmp_path, Answer((SOUND,))) == ["1 locked packages, no known vulnerability but 0 written exceptions"]


def test_the_second_service_is_asked_where_the_first_is_silent(tmp_path: Path) -> None:
    assert audited(tmp_path, Silence("no route"), Answer((SOUND,)))


@pytest.mark.parametrize(
    "answers",
    [
        (Silence("no route"), Silence("no route")),
        (Silence("no route"), Answer((SOUND, UNKNOWN))),
        (Answer((UNKNOWN,)), Answer((UNKNOWN,))),
        (Answer(()), Answer(())),
    ],
)
def test_what_nobody_looked_up_is_no_pass(tmp_path: Path, answers: tuple[Answer | Silence, ...]) -> None:
    with pytest.raises(EnvironmentLacking, match="nothing was checked") as caught:
        audited(tmp_path, *answers)
    assert "\n" not in str(caught.value)


def test_a_known_vulnerability_is_named_with_its_cure(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="c 2: PYSEC-1, fixed in 3"):
        audited(tmp_path, Answer((SOUND, BROKEN)))


@pytest.mark.parametrize("name", ["PYSEC-1", "CVE-1"])
def test_a_written_exception_is_accepted_under_any_of_its_names(tmp_path: Path, name: str) -> None:
    accepted = f'[exceptions]\n{name} = "only where a server runs"\n'
    assert len(audited(tmp_path, Answer((BROKEN,)), exceptions=accepted)) == 1


def test_an_exception_that_is_not_needed_any_more_is_told(tmp_path: Path) -> None:
    said = audited(tmp_path, Answer((SOUND,)), exceptions='[exceptions]\nPYSEC-9 = "why"\n')
    assert said[0] == f"{EXCEPTIONS}: PYSEC-9 is not found any more, remove it"


@pytest.mark.parametrize("text", ["PYSEC-9 = 1", "[exceptions]\nPYSEC-9 = true", "exceptions = []"])
def test_an_exception_without_a_reason_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        audited(tmp_path, Answer((SOUND,)), exceptions=text)


def test_the_exceptions_of_this_checkout_have_reasons() -> None:
    for name, reason in read_toml(ROOT / "requirements" / EXCEPTIONS, Exceptions).exceptions.items():
        assert len(reason.split()) >= 4, name


def test_every_lock_is_handed_to_pip_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run, without any network: it reads the locks and counts what it would look up."""
    real = subprocess.run
    words: list[str] = []

    def dry(command: tuple[str, ...], **options: object) -> subprocess.CompletedProcess[bytes]:
        assert {"runtime.lock", "build.lock", "dev.lock"} <= {Path(word).name for word in command}
        # options by name
        done: subprocess.CompletedProcess[bytes] = real((*command, "--dry-run"), **options)  # type: ignore[call-overload]
        words.append(done.stderr.decode())
        return done

    monkeypatch.setattr("harness.cli_audit.subprocess.run", dry)
    assert ask_pip_audit(ROOT)("osv") == Answer(())  # as such it would be no pass
    found = re.search(r"would have audited (\d+) packages", words[0])
    assert found
    assert int(found[1]) > 60
