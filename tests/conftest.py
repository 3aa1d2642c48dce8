"""Makes the modules of tests/fixtures importable by their names, and keeps what CI promises."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "fixtures"))

from promises import pytest_configure  # noqa: F401
