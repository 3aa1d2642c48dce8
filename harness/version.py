"""The bundle's own version."""

from __future__ import annotations

from pathlib import Path


def bundle_version(root: Path) -> str:
    """Version in pyproject.toml."""
    for line in (root / "pyproject.toml").read_text(encoding="utf-8").splitlines():
        if line.startswith("version = "):
            return line.split('"')[1]
    return "unknown"
