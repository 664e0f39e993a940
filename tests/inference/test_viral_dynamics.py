"""Viral dynamics with infusions of known duration against a closed-source engine's objective values."""

import json
import sys
from pathlib import Path

import pytest

import nlme_torch as nlme

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
TABLE, REFERENCE = SHARED / "data" / "hiv_viral_dynamics.csv", SHARED / "reference" / "hiv_foce_reference.json"

PRESENT = TABLE.exists() and REFERENCE.exists()
pytestmark = pytest.mark.skipif(not PRESENT, reason="needs the data beside the checkout")


@pytest.fixture
def models(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import hiv_models

    yield hiv_models
    sys.modules.pop("hiv_models", None)


def test_classical_model_of_a_hundred_subjects(models):
    block, data = json.loads(REFERENCE.read_text())["classical"], models.read(TABLE)
    for point in ("init", "final"):
        named = models.Classical.named(block[point])
        value = nlme.ofv(models.Classical(), data, nlme.FOCE(), named)
        assert value.minus2ll / 2 == pytest.approx(block[f"objective_{point}"], abs=1e-2), point


@pytest.mark.slow
def test_network_model_at_its_initial_values(models):
    block = json.loads(REFERENCE.read_text())["deepnlme_v"]
    named = models.WithNetwork.named(block["init"])
    data = models.read(TABLE, range(1, 21))
    value = nlme.ofv(models.WithNetwork(), data, nlme.FOCE(mode_starts=1), named, solver=nlme.Tsit5())
    assert value.penalised / 2 == pytest.approx(block["objective_init"], abs=2e-2)
