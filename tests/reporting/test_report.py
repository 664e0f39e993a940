"""The report is one page that loads nothing, with all pictures in it and tables that can be sorted."""

import base64
import os
import stat
from html.parser import HTMLParser

import pandas as pd
import pytest
from support.fitted_models import quick_fit

import nlme_torch as nlme
from nlme_torch.reporting.page import table_html


class Page(HTMLParser):
    """Collects what a page shows and what it would load."""

    VOID = {"meta", "img", "br", "link", "hr", "input"}

    def __init__(self, text):
        super().__init__()
        self.pictures, self.loaded, self.titles, self.tables, self.open = [], [], [], 0, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if tag == "img":
            self.pictures.append(named["src"])
        for name in ("src", "href"):
            if name in named and not named[name].startswith(("data:", "#")):
                self.loaded.append(named[name])
        self.tables += tag == "table"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)


def test_the_page_stands_on_its_own(tmp_path):
    fit = quick_fit()
    path = nlme.report(fit, tmp_path / "run", simulations=60, labels={"time": "time (h)"})
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and page.loaded == [] and "http" not in text
    assert page.titles == [
        "Summary", "Estimates", "Data", "Individual fits", "Residuals", "Simulations of the model", "Random effects",
        "Settings and code",
    ]  # fmt: skip
    assert len(page.pictures) == 9 and page.tables >= 8
    for picture in page.pictures:
        assert base64.b64decode(picture.removeprefix("data:image/png;base64,"))[:4] == b"\x89PNG"
    assert "class TheophyllineClosedForm(Model)" in text and "time (h)" not in text  # pictures are pixels
    assert f"{fit.ofv:.3f}" in text and [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, "others may read it as far as the user allows"
    with pytest.raises(nlme.FitError, match="exists"):
        nlme.report(fit, tmp_path / "run")


def test_cells_hold_the_numbers_they_are_sorted_by_and_no_markup():
    table = pd.DataFrame({"a": [0.00012345, float("nan")], "b<": ["<script>", "x"], "n": [3, 4]})
    text = table_html(table)
    assert 'data-value="0.00012345">0.0001234' in text or 'data-value="0.00012345">0.0001235' in text
    assert '<td class="number" data-value=""></td>' in text and 'data-value="3">3' in text
    assert "<script>" not in text and "b&lt;" in text
