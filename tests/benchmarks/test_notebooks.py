"""The notebooks run from top to bottom, and what they show is a picture or a table."""

from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "benchmarks" / "notebooks").glob("*.ipynb"))


@pytest.mark.heavy("ipykernel", "nbclient", "nbformat")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    import nbclient
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in cells), f"{path.name} is kept without outputs, which would grow stale"
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    for cell in cells:
        said = "".join(one.text for one in cell.outputs if one.output_type == "stream").splitlines()
        assert not [line for line in said if "compiling kernels" not in line], cell.source
        shown = [one.data for one in cell.outputs if one.output_type == "execute_result"]
        last = cell.source.splitlines()[-1]
        assert len(shown) == 1, last
        assert "text/html" in shown[0], f"{last}: shows itself as bare text"
        assert ("data:image/svg+xml" in shown[0]["text/html"]) == last.startswith("figures."), last
    assert list(tmp_path.iterdir()) == []


def test_there_is_a_notebook():
    assert NOTEBOOKS
