"""Models and data sets say what they hold, in a terminal and in a notebook."""

from html.parser import HTMLParser

from support.small_models import Everything, Line, everything_data

import nlme_torch as nlme


class Cells(HTMLParser):
    """The text of a page, and whether all its tags are closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.open += [] if tag == "br" else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += f"{data} "


def test_a_model_prints_its_parts_and_not_the_tree_of_modules():
    text = repr(Everything())
    assert text == str(Everything().summary())
    assert "written in individual, initial, dynamics, observe" in text
    assert "ParameterDict" not in text and "NamedModules" not in text and "(ka)" not in text
    row = next(line for line in text.splitlines() if line.split()[:1] == ["disposition"])
    assert row.split() == ["disposition", "2", "cl,", "v", "Full", "0.1,", "0.2", "True"]
    page = Cells(Everything()._repr_html_())
    assert page.open == [] and "disposition" in page.text and "sigma_pk" in page.text


def test_a_model_that_failed_in_its_construction_can_be_printed():
    class Broken(Line):
        def __init__(self):
            super().__init__()
            seen.append(repr(self))

    seen = []
    Broken()
    assert "Broken" in seen[0]


def test_a_data_set_is_a_table_in_a_notebook():
    page = Cells(everything_data()._repr_html_())
    assert page.open == [] and "Dataset of 5 subjects" in page.text
    assert "observations" in page.text and "covariates" in page.text and "WT" in page.text
    strange = nlme.Dataset.from_frame(everything_data().frame.assign(**{"<b>": 1.0}), outputs=["yPK", "yPD"])
    assert "&lt;b&gt;" in strange._repr_html_()
