"""NONMEM's printed objectives at its estimates.

Sources: phenobarbital is pharmpy's example run pheno_real (NONMEM 7.4.2), theophylline the outputs of NONMEM 7.4.1 in
the R package nmw; the tutorial is R. J. Bauer, CPT Pharmacometrics Syst Pharmacol 2019, 8:525 and 8:538.
"""

import pandas as pd
import pytest

import nlme_torch as nlme
from tests.support.control_streams import (
    AVAILABLE,
    BUNDLED,
    SHARED,
    STREAMS,
    estimates_file,
    lower_triangle,
    tutorial_run,
)
from tests.support.tutorial_models import BelowLimit, below_limit_data, below_limit_params


def phenobarbital(theta, omega, sigma):
    return {
        **{f"THETA{k}": value for k, value in enumerate(theta, 1)},
        **lower_triangle("OMEGA", [[omega[0]], [0.0, omega[1]]]),
        "SIGMA(1,1)": sigma,
    }


@pytest.mark.parametrize(
    ("estimates", "objective"),
    [
        (None, 587.3664413466162),
        (phenobarbital((0.00469555, 0.984258, 0.15892), (0.0293508, 0.027906), 0.013241), 586.2760562818805),
    ],
)
def test_phenobarbital(tmp_path, estimates, objective):
    file = None if estimates is None else estimates_file(tmp_path, estimates)
    run = nlme.from_nonmem(STREAMS / "pheno.mod", file, BUNDLED / "phenobarbital.csv")
    assert run.method == nlme.FOCEI()
    assert nlme.ofv(run.model, run.data, run.method).ofv == pytest.approx(objective, abs=1e-5)


@pytest.mark.parametrize(
    ("theta", "omega", "sigma", "method", "objective"),
    [
        ((2.0, 50.0, 0.1), [[0.2], [0.1, 0.2], [0.1, 0.1, 0.2]], (0.1, 0.1), nlme.FO(), 141.30755264437),
        ((2.0, 50.0, 0.1), [[0.2], [0.1, 0.2], [0.1, 0.1, 0.2]], (0.1, 0.1), nlme.FOCEI(), 192.6502555594),
        ((2.0, 50.0, 0.1), [[0.2], [0.1, 0.2], [0.1, 0.1, 0.2]], (0.1, 0.1), nlme.Laplace(), 194.101735812272),
        (
            (1.4907, 32.447, 0.08729),
            [[0.43472], [0.05692, 0.019399], [-0.0064855, 0.012083, 0.020233]],
            (0.017039, 0.082844),
            nlme.FOCEI(),
            92.830869045516,
        ),
    ],
)
def test_theophylline(tmp_path, theta, omega, sigma, method, objective):
    estimates = {f"THETA{k}": value for k, value in enumerate(theta, 1)} | lower_triangle("OMEGA", omega)
    estimates |= {"SIGMA(1,1)": sigma[0], "SIGMA(2,2)": sigma[1]}
    file = estimates_file(tmp_path, estimates)
    run = nlme.from_nonmem(STREAMS / "theophylline.mod", file, BUNDLED / "theophylline.csv")
    assert nlme.ofv(run.model, run.data, method).ofv == pytest.approx(objective, abs=1e-4)


def test_the_theophylline_example_of_the_guide(tmp_path):
    """Boeckmann, Sheiner and Beal, NONMEM Users Guide, Part V: 104.561 by FO at estimates printed with three digits.

    The weight stands on the first record of each subject alone, which CALLFL=1 reads.
    """
    frame = pd.read_csv(BUNDLED / "theophylline.csv")
    lines, seen = ["ID,DOSE,TIME,CP,WT"], set()
    for row in frame.itertuples():
        if row.Subject not in seen:
            seen.add(row.Subject)
            lines.append(f"{row.Subject},{row.Dose},0,.,{row.Wt}")
        lines.append(f"{row.Subject},.,{row.Time},{row.conc},.")
    (tmp_path / "theopp.csv").write_text("\n".join(lines) + "\n")
    estimates = {"THETA1": 2.77, "THETA2": 0.0781, "THETA3": 0.0363, "SIGMA(1,1)": 0.388}
    estimates |= lower_triangle("OMEGA", [[5.55], [0.00524, 0.00024], [-0.128, 0.00911, 0.515]])
    run = nlme.from_nonmem(
        STREAMS / "styles" / "theophylline_classic.mod", estimates_file(tmp_path, estimates), tmp_path / "theopp.csv"
    )
    assert run.method == nlme.FO()
    assert nlme.ofv(run.model, run.data, run.method).ofv == pytest.approx(104.561, abs=0.005)


@pytest.mark.skipif(not AVAILABLE, reason="the tutorial's data are not beside this checkout")
@pytest.mark.parametrize(
    ("stream", "block"), [("bauer_501", "covariates_501"), pytest.param("bauer_r2comp", "tmdd", marks=pytest.mark.slow)]
)
def test_tutorial(tmp_path, stream, block):
    objective, estimates = tutorial_run(block, "FOCEI")
    file = estimates_file(tmp_path, estimates | ({"SIGMA(2,1)": 0.0} if block == "tmdd" else {}))
    run = nlme.from_nonmem(STREAMS / f"{stream}.mod", file, SHARED / "data" / f"{stream}.csv")
    assert nlme.ofv(run.model, run.data, run.method).ofv == pytest.approx(objective, abs=0.005)


@pytest.mark.skipif(not AVAILABLE, reason="the tutorial's data are not beside this checkout")
def test_values_below_the_limit(tmp_path):
    """F_FLAG with PHI is the censored likelihood of the model written by hand."""
    _, estimates = tutorial_run("blq", "IMP")
    run = nlme.from_nonmem(
        STREAMS / "bauer_ad3tr4.mod", estimates_file(tmp_path, estimates), SHARED / "data" / "bauer_ad3tr4.csv"
    )
    assert run.method == nlme.Laplace()
    density = {
        "converted": nlme.ofv(run.model, run.data, nlme.Pooled()).minus2ll,
        "by hand": nlme.ofv(BelowLimit(), below_limit_data(), nlme.Pooled(), below_limit_params(estimates)).minus2ll,
    }
    assert density["converted"] == pytest.approx(density["by hand"], abs=1e-9)
