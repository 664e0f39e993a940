"""What a report holds, section by section: texts, tables and pictures, none of which may keep the others from it."""

import base64
import inspect
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nlme_torch import diagnostics, plots
from nlme_torch.errors import NLMEError
from nlme_torch.inference import Fit
from nlme_torch.plots.figures import Labels, figure_of

LIBRARIES = ("nlme_torch", "torch", "pyro-ppl", "numpy", "scipy", "pandas", "matplotlib")

MOST_PAGES = 6
"""Pages of individual fits that a report holds: 72 subjects."""


@dataclass
class Section:
    """One part of a report.

    Attributes:
        title: What stands above it.
        texts: Paragraphs.
        tables: Caption to table.
        pictures: Caption to a PNG picture in base 64.
        code: Text that is shown as it is.
    """

    title: str
    texts: list[str] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    code: str = ""

    def draw(self, caption: str, make: Callable[[], Axes | Figure]) -> None:
        """Add a picture, or say why there is none."""
        try:
            drawn = make()
        except NLMEError as error:
            self.texts.append(f"{caption}: {error}")
            return
        figure = drawn if isinstance(drawn, Figure) else figure_of(drawn)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", facecolor="white")
        plt.close(figure)
        self.pictures[caption] = base64.b64encode(buffer.getvalue()).decode()

    def tabulate(self, caption: str, make: Callable[[], pd.DataFrame]) -> None:
        """Add a table, or say why there is none."""
        try:
            table = make()
        except NLMEError as error:
            self.texts.append(f"{caption}: {error}")
            return
        if len(table):
            self.tables[caption] = table


def sections(fit: Fit, simulations: int, seed: int, labels: Labels) -> Iterator[Section]:
    """Make the sections of a report one after the other.

    Args:
        fit: The fit.
        simulations: For NPDE and visual predictive checks.
        seed: Of the simulations.
        labels: What to write for times, outcomes, parameters and covariates.
    """
    yield _summary(fit)
    yield _estimates(fit, labels)
    data = Section("Data", [str(fit.data)])
    data.draw("Observations over time", lambda: plots.data(fit, labels=labels))
    yield data
    yield _individuals(fit, labels)
    yield _residuals(fit, simulations, seed, labels)
    checks = Section("Simulations of the model")
    for outcome in fit.data.outputs:
        drawn = partial(plots.vpc, fit, outcome=outcome, simulations=simulations, seed=seed, labels=labels)
        checks.draw(f"Visual predictive check of {outcome}", drawn)
        counted = partial(diagnostics.numerical_predictive_check, fit, outcome, simulations=simulations, seed=seed)
        checks.tabulate(f"Numerical predictive check of {outcome}", counted)
    yield checks
    yield _effects(fit, labels)
    settings = Section("Settings and code")
    settings.tables["Settings"] = _settings(fit, simulations, seed)
    settings.code = _code(fit)
    yield settings


def _summary(fit: Fit) -> Section:
    rows = {
        "model": type(fit.model).__name__,
        "method": type(fit.method).__name__,
        "status": str(getattr(fit.status, "value", fit.status)),
        "how it ended": fit.termination,
        "subjects": fit.data.n_subjects,
        "observations": fit.data.n_observations,
        "estimated parameters": fit.n_parameters,
        f"-2LL ({fit.log_likelihood.method})": f"{fit.minus2ll:.3f}",
        "OFV (without n log 2 pi)": f"{fit.ofv:.3f}",
        "AIC": f"{fit.aic:.3f}",
        "BIC": f"{fit.bic:.3f}",
    }
    summary = Section("Summary")
    summary.tables["The fit"] = pd.DataFrame({"value": rows.values()}, index=pd.Index(rows, name=""))
    summary.texts = [f"Warning: {warning}" for warning in fit.warnings]
    return summary


def _estimates(fit: Fit, labels: Labels) -> Section:
    section = Section("Estimates")
    section.tables["Parameters"] = fit.parameters.dropna(axis=1, how="all")
    if fit.model.n_effects:
        section.tables["Covariance of the random effects"] = fit.omega
    if fit.uncertainty is None:
        section.texts.append("Standard errors were not computed: fit.with_standard_errors() adds them.")
    else:
        section.texts.append(fit.uncertainty.headline)
        section.draw("Correlation of the estimates", lambda: plots.correlation(fit, labels=labels))
    if len(fit.data.covariate_names):
        section.draw("Effects of covariates", lambda: plots.forest(fit, labels=labels))
    if len(fit.trace):
        section.draw("Iterations", lambda: plots.convergence(fit, labels=labels))
    return section


def _individuals(fit: Fit, labels: Labels) -> Section:
    section = Section("Individual fits")
    shown = fit.data.subjects[: 12 * MOST_PAGES]
    for start in range(0, len(shown), 12):
        page = shown[start : start + 12]
        drawn = partial(plots.fits, fit, page, band=0.9, labels=labels)
        section.draw(f"Subjects {start + 1} to {start + len(page)}", drawn)
    if len(shown) < fit.data.n_subjects:
        section.texts.append(f"The first {len(shown)} of {fit.data.n_subjects} subjects.")
    return section


def _residuals(fit: Fit, simulations: int, seed: int, labels: Labels) -> Section:
    section = Section("Residuals")
    section.draw(
        "Observations, predictions and residuals",
        lambda: plots.residual_panel(fit, simulations=simulations, seed=seed, labels=labels),
    )
    section.tabulate(
        "Tests for a normal distribution", lambda: diagnostics.normality_tests(fit, simulations=simulations, seed=seed)
    )
    section.tabulate(
        "Outlying observations", lambda: diagnostics.outlying_observations(fit, simulations=simulations, seed=seed)
    )
    return section


def _effects(fit: Fit, labels: Labels) -> Section:
    section = Section("Random effects")
    if not fit.model.n_effects:
        section.texts.append("The model has none.")
        return section
    section.tabulate("Shrinkage", lambda: diagnostics.shrinkage_table(fit))
    section.draw("Distributions", lambda: plots.effects(fit, labels=labels))
    if fit.model.n_effects > 1:
        section.draw("Pairs", lambda: plots.effects(fit, versus="effects", labels=labels))
        section.tabulate("Associations of effects", lambda: diagnostics.effect_associations(fit))
    if len(fit.data.covariates.columns):
        section.draw("Covariates", lambda: plots.effects(fit, versus="covariates", labels=labels))
        section.tabulate("Associations with covariates", lambda: diagnostics.covariate_associations(fit))
    return section


def _settings(fit: Fit, simulations: int, seed: int) -> pd.DataFrame:
    rows = {
        "method": str(fit.method),
        "solver": str(fit.solver),
        "seed of the fit": fit.seed,
        "seconds": f"{fit.seconds:.1f}",
        "simulations of the report": simulations,
        "seed of the report": seed,
        "hash of the data": fit.data.hash[:16],
        "python": platform.python_version(),
    }
    for library in LIBRARIES:
        try:
            rows[library] = version(library)
        except PackageNotFoundError:
            continue
    return pd.DataFrame({"value": rows.values()}, index=pd.Index(rows, name=""))


def _code(fit: Fit) -> str:
    """The source of the model and of what it inherits outside this library."""
    parts = []
    for owner in type(fit.model).__mro__:
        if owner.__module__.startswith(("torch", "builtins", "nlme_torch.model")) or owner is object:
            continue
        try:
            parts.append(inspect.getsource(owner))
        except (OSError, TypeError):
            parts.append(f"# the source of {owner.__name__} is not known: it was written in an interpreter")
    return "\n\n".join(parts)
