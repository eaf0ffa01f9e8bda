"""The benchmark for GPUs runs: here on the CPU, on a small network, each part on its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(folder: Path, *parts: str) -> dict:
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--device", "cpu", "--quick", "--parts", *parts]
    subprocess.run([*command, "--output", str(folder / "gpu.json")], check=True, capture_output=True, timeout=200)
    return json.loads((folder / "gpu.json").read_text())


def test_products_network_step_and_noise_are_measured(tmp_path: Path) -> None:
    found = run(tmp_path, "peak", "denoiser", "whole step", "noise", "out of memory", "gpu tests")
    assert found["device"] == "CPU"
    assert found["peak"]["bf16"] > 0
    assert found["denoiser"]["GFLOP a tile"] == pytest.approx(0.16, rel=0.05)
    assert found["denoiser"]["cast once, batch 2"]["ms a tile"] > 0
    assert found["denoiser"]["best share of the bf16 peak"] > 0
    assert 0.3 < sum(found["whole step"]["shares"].values()) <= 1.0
    assert found["noise"]["different"] == 0
    assert found["out of memory"]["left out"] == found["gpu tests"]["left out"] == "needs a CUDA device"


@pytest.mark.slow
def test_training_and_a_killed_run_are_measured(tmp_path: Path) -> None:
    found = run(tmp_path, "training", "kill and resume")
    assert found["training"]["iterations/s on a ready batch"] > 0
    killed = found["kill and resume"]
    assert killed["states when it was killed"]
    assert "resumed from experiments/bench/training_state/" in killed["resumed"]
    assert "done: 6 iterations" in killed["last line"]
