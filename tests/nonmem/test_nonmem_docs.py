"""The page about NONMEM: its class is what its stream is converted to, and gives NONMEM's objective."""

import re
import shutil
from pathlib import Path

import pytest

import nlme_torch as nlme
from tests.support.control_streams import BUNDLED

PAGE = Path(__file__).resolve().parents[2] / "docs" / "from_nonmem.md"


def test_the_page_shows_what_its_stream_becomes(tmp_path, monkeypatch):
    stream, code = re.findall(r"```(?:python)?\n(.*?)```", PAGE.read_text(), re.DOTALL)
    shutil.copy(BUNDLED / "phenobarbital.csv", tmp_path / "phenobarb.csv")
    (tmp_path / "pheno.mod").write_text(stream)
    monkeypatch.chdir(tmp_path)
    run = nlme.from_nonmem("pheno.mod")
    assert run.source == code
    names = {}
    exec(code, names)
    value = nlme.ofv(names["Pheno"](), names["data"](), names["method"]).ofv
    assert value == pytest.approx(587.3664413466162, abs=1e-5)
