"""Progress is one line: in place in a terminal and in a notebook, rare in a log file."""

import io
import sys
import types
import warnings

import pytest

from nlme_torch.inference import progress
from nlme_torch.inference.progress import Cell, progress_line


class Handle:
    def __init__(self):
        self.shown = []

    def update(self, data, raw):
        self.shown.append(data["text/plain"])


@pytest.fixture
def notebook(monkeypatch):
    """A stand-in for IPython with a kernel, whose cells are numbered."""
    shell = types.SimpleNamespace(kernel=object(), execution_count=7)
    handles = []

    def display(data, raw, display_id):
        handles.append(Handle())
        return handles[-1]

    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    monkeypatch.setattr(Cell, "_last", None)
    monkeypatch.setattr(progress, "IN_A_NOTEBOOK", 0.0)
    return shell, handles


def test_all_lines_of_a_cell_are_one_output_that_is_overwritten(notebook, capsys):
    shell, handles = notebook
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # tqdm warns in a notebook without ipywidgets
        for label in ("race", "SAEM", "certify"):
            with progress_line(5, label, True) as line:
                for _ in range(5):
                    line.advance(label, {"ka": 1.5})
    assert len(handles) == 1 and len(handles[0].shown) >= 3
    assert handles[0].shown[-1].startswith("certify: 100%") and "ka 1.5" in handles[0].shown[-1]
    assert "\r" not in "".join(handles[0].shown) and capsys.readouterr().err == ""
    shell.execution_count += 1
    with progress_line(2, "next", True):
        pass
    assert len(handles) == 2


def test_nothing_is_shown_where_nothing_is_asked_for(notebook):
    with progress_line(5, "quiet", False) as line:
        line.advance("quiet")
    assert notebook[1] == []


def test_a_log_file_gets_a_line_a_minute(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with progress_line(2000, "fit", True) as line:
        for _ in range(2000):
            line.advance("fit", {"ka": 1.0})
        line.finish("fit", 2000)
    assert log.getvalue().count("\r") <= 4
