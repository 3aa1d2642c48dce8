"""Whether records come from a real machine: found, never asked for."""

from __future__ import annotations

from pathlib import Path

import board_tree

from harness.study.detect_device import origin
from harness.terms import Origin


def test_a_machine_measures(tmp_path: Path) -> None:
    assert origin(board_tree.jetson(tmp_path)) is Origin.MEASURED


def test_the_test_board_of_jetson_stats_emulates(tmp_path: Path) -> None:
    board_tree.write(tmp_path / "fake_sys/bus/i2c/devices/1-0040/name", "ina3221")
    assert origin(tmp_path) is Origin.EMULATED


def test_a_mount_point_that_another_board_left_is_no_board(tmp_path: Path) -> None:
    (tmp_path / "fake_sys").mkdir()
    assert origin(tmp_path) is Origin.MEASURED
