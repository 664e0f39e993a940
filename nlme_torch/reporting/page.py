"""The page itself: one HTML file with everything inside."""

import html
import math
import os
import tempfile
from pathlib import Path

import pandas as pd

from nlme_torch.errors import FitError
from nlme_torch.inference import Fit
from nlme_torch.inference.estimates.method_arguments import check_fit
from nlme_torch.plots.figures import Labels
from nlme_torch.reporting.contents import Section, sections
from nlme_torch.settings import check_values

PAGE = Path(__file__).with_name("page.html")


def report(
    fit: Fit,
    folder: str | Path,
    *,
    title: str | None = None,
    simulations: int = 500,
    seed: int = 0,
    labels: Labels = None,
    overwrite: bool = False,
) -> Path:
    """Write a fit as one self-contained HTML page.

    It holds estimates, data, individual fits, residuals, predictive checks, random effects, settings, versions and the
    code of the model. The page loads nothing from a network, and its tables are sorted by a click on a column.

    Args:
        fit: The fit, with its data.
        folder: Where ``report.html`` is written; made if absent.
        title: What stands above; the model's name if None.
        simulations: For NPDE and the predictive checks.
        seed: Of the simulations.
        labels: What to write for ``"time"``, outcomes, parameters and covariates, with their units.
        overwrite: Replace a report that already stands there.

    Returns:
        The file.

    Raises:
        FitError: The fit was loaded without its data, a report stands there, or jinja2 is not installed.

    Example:
        >>> import tempfile
        >>> import nlme_torch as nlme
        >>> data, model = nlme.examples.theophylline(), nlme.examples.TheophyllineClosedForm()
        >>> fit = nlme.fit(model, data, nlme.FOCEI(), progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     nlme.report(fit, folder, simulations=50).name
        'report.html'
    """
    try:
        from jinja2 import Environment
    except ImportError:
        raise FitError("report needs jinja2: pip install jinja2.") from None
    check_fit("report", fit)
    check_values("report", FitError, folder=(folder, str | os.PathLike), simulations=(simulations, int))
    target = Path(folder) / "report.html"
    if target.exists() and not overwrite:
        raise FitError(f"report: {target} exists; choose another folder or overwrite=True.")
    name = title or type(fit.model).__name__
    environment = Environment(autoescape=True)
    environment.filters["table"] = table_html
    environment.filters["anchor"] = _anchor
    parts: list[Section] = list(sections(fit, simulations, seed, labels))
    page = environment.from_string(PAGE.read_text(encoding="utf-8")).render(title=name, sections=parts)
    target.parent.mkdir(parents=True, exist_ok=True)
    # a reader never finds half a page
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".report-") as scratch:
        unseen = Path(scratch) / target.name
        unseen.write_text(page, encoding="utf-8")
        os.replace(unseen, target)
    return target


def table_html(table: pd.DataFrame) -> str:
    """Return a table whose cells know the numbers they are sorted by.

    Args:
        table: Any table; its index is the first column unless it only counts.
    """
    frame = table if isinstance(table.index, pd.RangeIndex) else table.reset_index(names=table.index.name or "")
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in frame.columns)
    rows = []
    for values in frame.itertuples(index=False, name=None):
        rows.append("<tr>" + "".join(_cell(value) for value in values) + "</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _cell(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"<td>{html.escape(str(value))}</td>"
    if isinstance(value, float) and math.isnan(value):
        return '<td class="number" data-value=""></td>'
    shown = f"{value:d}" if isinstance(value, int) else f"{value:.4g}"
    return f'<td class="number" data-value="{value!r}">{shown}</td>'


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
