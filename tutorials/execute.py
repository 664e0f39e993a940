"""Execute the tutorials and write each as a notebook beside its script.

    python tutorials/execute.py [NAME ...]

NAME is that of a script without its ending; all if none is given. Needs ``pip install -e .[tutorials]``.
"""

import argparse
import os
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def execute(name: str) -> Path:
    """Run one tutorial from the repository's root and write it with its output."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(FOLDER.parent)}}).execute()
    for index, cell in enumerate(notebook.cells):
        cell.id = f"cell-{index}"
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _progress(output)]
    notebook.metadata.pop("jupytext", None)
    path = FOLDER / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def _progress(output: nbformat.NotebookNode) -> bool:
    """Whether an output is a progress line, or tqdm's remark that it has no widget for one."""
    if output.output_type != "stream" or output.name != "stderr":
        return False
    return not output.text.strip() or "\r" in output.text or "TqdmWarning" in output.text


def main() -> None:
    """Execute what was asked for."""
    scripts = sorted(path.stem for path in FOLDER.glob("*.py") if path != Path(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=scripts, choices=scripts, metavar="NAME", help=", ".join(scripts))
    os.environ.pop("MPLBACKEND", None)  # figures go into the notebook
    for name in parser.parse_args().names:
        print(execute(name), flush=True)


if __name__ == "__main__":
    main()
