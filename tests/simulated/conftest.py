"""Builds the simulated card once and runs scenarios on it, each in a process of its own."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="session")
def library(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled device, kept in pytest's cache for this torch and this source."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    if torch.version.cuda:
        pytest.skip("stands in for CUDA in a CPU build of torch")
    source = HERE / "device.cpp"
    key = hashlib.sha256(source.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    cache = getattr(pytestconfig, "cache", None)  # gone with -p no:cacheprovider
    folder = cache.mkdir("simulated_card") if cache else tmp_path_factory.mktemp("simulated_card")
    built = folder / f"{key}.so"
    with built.with_suffix(".lock").open("w") as lock:  # one worker of pytest-xdist builds, the others wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        return built if built.exists() else _compiled(compiler, source, built)


def _compiled(compiler: str, source: Path, built: Path) -> Path:
    place = Path(torch.__file__).parent
    made = built.with_suffix(f".{os.getpid()}")
    command = [
        compiler, "-O1", "-std=c++20", "-fPIC", "-shared", str(source), "-o", str(made), f"-I{place}/include",
        f"-I{place}/include/torch/csrc/api/include", f"-L{place}/lib", "-ltorch_cpu", "-lc10", "-ltorch",
        f"-Wl,-rpath,{place}/lib",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"device.cpp does not compile with torch {torch.__version__}: {done.stderr[-500:]}")
    made.replace(built)
    return built


@pytest.fixture(scope="module")
def scenario(library: Path, tmp_path_factory: pytest.TempPathFactory):
    """Runs scenarios/NAME.py in the module's folder, with arguments; what it printed as JSON in its last line."""
    folder = tmp_path_factory.mktemp("card")
    path = os.pathsep.join([str(ROOT), str(HERE / "scenarios"), str(ROOT / "tests" / "helpers")])
    environment = {**os.environ, "SIMULATED_CARD": str(library), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}

    def run(name: str, *arguments: str, processes: int = 1, **more: str) -> dict:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        script = str(HERE / "scenarios" / f"{name}.py")
        command = [sys.executable, *(launcher if processes > 1 else []), script, *arguments]
        done = subprocess.run(
            command, cwd=folder, env={**environment, **more}, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        sys.stderr.write(done.stderr)  # shown where a test fails
        return json.loads(done.stdout.splitlines()[-1])

    return run
