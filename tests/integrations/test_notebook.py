"""The notebook runs from top to bottom, and its numbers say what its text says."""

import os
import sys

import pytest
from integration_helpers import ROOT

NOTEBOOK = ROOT / "notebooks" / "restore.ipynb"


def test_the_notebook_is_kept_without_results():
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (requirements-release.txt)")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 6
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (requirements-release.txt)")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed (requirements-release.txt)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (requirements-release.txt)")
    (tmp_path / "tessera").symlink_to(ROOT / "codes", target_is_directory=True)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PATH", os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = " ".join(output.get("text", "") for output in outputs)
    assert "('jpeg', 'gaussian_blur') 2" in text
    bicubic, one_step = (float(text.split(name)[1].split(" dB")[0]) for name in ("bicubic ", "one step "))
    assert one_step > bicubic + 0.2
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
    assert outputs[-1]["data"]["text/plain"].endswith("True)")
