"""The bundle's own version."""

from __future__ import annotations

from pathlib import Path


def bundle_version(root: Path) -> str:
    """Version in pyproject.toml; reports are also made where only a part of the checkout is."""
    project = root / "pyproject.toml"
    for line in project.read_text(encoding="utf-8").splitlines() if project.exists() else ():
        if line.startswith("version = "):
            return line.split('"')[1]
    return "unknown"
