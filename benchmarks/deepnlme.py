"""Does more knowledge in a model with networks show on subjects and doses it has not seen?

    python benchmarks/deepnlme.py --json FILE [--only rung1,...,rung6,rung6_weights,rung3_individual,truth] [--also ...]

Ten training subjects of the indirect-response truth, twelve test subjects. Rungs 1 to 4 have no random effects and are
fitted by a pooled fit; the others by a pooled fit and then SAEM. For every model NAME:

NAME_train_m2ll, NAME_test_m2ll: -2 log-likelihood of training and test subjects, by importance sampling.
NAME_left_out_m2ll: of the training subjects, each under a fit without it (``nlme.leave_one_out``, an estimate).
NAME_individual_rmse: error of the response predicted at 13, ..., 24 h for test subjects whose random effects were found
    from their samples at 0, ..., 12 h; against the truth without noise. NAME_individual_rmse_pk: of the concentration.
NAME_regimen_rmse: the same over 48 h under doses that no training subject had: 0.3 at 0, 3 and 6 h, 1.5 at 25 and 33 h.
NAME_sigma_pk, NAME_sigma_pd: estimates; the truth is 0.02 and 0.1. NAME_seconds: the call of nlme.fit.
``truth`` is the model that the data were simulated from, fitted like rung 5. Rungs 7 to 9 follow by covariates.py,
viral.py and small_networks.py, into the same file; ``--also ""`` leaves them out.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from record import conditions, record
from torch import Tensor

import nlme_torch as nlme
from nlme_torch.inference.effects.effect_estimates import find_modes
from nlme_torch.model.density.density import Density

POOLED = nlme.Pooled(steps=1500, learning_rate=0.05)
MIXED = nlme.Staged(
    nlme.Pooled(steps=300), nlme.SAEM(schedule=nlme.StepSchedule(exploration=300, smoothing=100), chains=5)
)
STUDIES: dict[str, tuple[type[nlme.Model], nlme.Pooled | nlme.Staged | nlme.SAEM]] = {
    "rung1": (nlme.examples.NeuralODE, POOLED),
    "rung2": (nlme.examples.GraphNeuralODE, POOLED),
    "rung3": (nlme.examples.UniversalODE, POOLED),
    "rung4": (nlme.examples.TargetedNetwork, POOLED),
    "rung5": (nlme.examples.DeepNLME, MIXED),
    "rung6": (nlme.examples.IndividualNetwork, MIXED),
    "rung6_weights": (nlme.examples.IndividualWeights, MIXED),
    "rung3_individual": (nlme.examples.IndividualResponse, MIXED),
    "truth": (nlme.examples.IndirectResponse, MIXED),
}


OTHERS = ("covariates", "viral", "small_networks")  # rungs 7, 8 and 9, in scripts of their own


@dataclass(frozen=True)
class TestSubjects:
    """Twelve subjects with their true effects, seen whole, seen for half a day, and under other doses."""

    effects: Tensor
    whole: nlme.Dataset
    half: nlme.Dataset
    other_doses: nlme.Dataset

    @staticmethod
    def simulate(seed: int, count: int = 12) -> "TestSubjects":
        """Draw the subjects."""
        truth = nlme.examples.IndirectResponse()
        generator = torch.Generator().manual_seed(seed)
        effects = 0.1**0.5 * torch.randn(truth.n_effects, count, dtype=torch.float64, generator=generator)
        whole = nlme.simulate(truth, nlme.examples.indirect_response_design(count, seed), seed=seed, eta=effects)
        frame = whole.frame
        half = nlme.Dataset.from_frame(frame[frame["TIME"] <= 12], outputs=["yPK", "yPD"])
        regimen = nlme.Regimen(0.3, every=3.0, additional=2) + nlme.Regimen(1.5, time=25.0, every=8.0, additional=1)
        return TestSubjects(effects, whole, half, whole.with_regimen(regimen, [float(hour) for hour in range(49)]))


def predictions(model: nlme.Model, data: nlme.Dataset, effects: Tensor, solver: nlme.Auto, after: float) -> Tensor:
    """Noise-free concentration and response of every subject at sampling times beyond ``after``, (outcome, sample)."""
    density = Density(model, data.batch(), solver)
    batch = density.batch
    with torch.no_grad():
        distributions, _ = density.at().observe(effects[:, None, None])
    # the sampling times, without the rows of doses
    wanted = batch.record_mask & (batch.times > after) & (batch.times == batch.times.round())
    if batch.doses is not None:
        wanted &= batch.doses.kind == 0
    return torch.stack([distributions[name].mean[:, 0, 0][wanted] for name in ("yPK", "yPD")])


def study(name: str, train: nlme.Dataset, test: TestSubjects) -> dict[str, float]:
    """Fit one model and judge it on the test subjects."""
    kind, method = STUDIES[name]
    begun = time.perf_counter()
    fit = nlme.fit(kind(), train, method, seed=1, progress=False)
    seconds = time.perf_counter() - begun
    print(fit, flush=True)
    conditional = Density(fit.model, test.half.batch(), fit.solver).at()
    with torch.no_grad():
        draws = conditional.sample(7, torch.Generator().manual_seed(0))[:, :, 0]
    modes = find_modes(conditional, torch.cat([torch.zeros_like(draws[:, :1]), draws], dim=1)).effects
    errors = {}
    truth, exact = nlme.examples.IndirectResponse(), nlme.Auto(rtol=1e-9, atol=1e-11)
    for label, data, after in (("individual", test.whole, 12.0), ("regimen", test.other_doses, -1.0)):
        expected = predictions(truth, data, test.effects, exact, after)
        difference = predictions(fit.model, data, modes, exact, after) - expected
        errors[f"{label}_rmse_pk"], errors[f"{label}_rmse"] = difference.square().mean(1).sqrt().tolist()
    held = nlme.held_out(fit, test.whole)
    figures = {
        "train_m2ll": fit.minus2ll,
        "left_out_m2ll": nlme.leave_one_out(fit).minus2ll,
        "test_m2ll": held.minus2ll,
        "test_m2ll_se": 2 * held.standard_error,
        **errors,
        "sigma_pk": float(fit.parameters.estimate["sigma_pk"]),
        "sigma_pd": float(fit.parameters.estimate["sigma_pd"]),
        "seconds": seconds,
    }
    return {f"{name}_{key}": value for key, value in figures.items()}


def main() -> None:
    """Run the studies and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures, as flat keys")
    parser.add_argument("--only", default=",".join(STUDIES), help="models to fit, comma-separated")
    parser.add_argument("--also", default=",".join(OTHERS), help="further studies whose figures go into FILE too")
    parser.add_argument("--seed", type=int, default=1, help="seed of the training subjects; the next one's of the test")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, float | str] = (
        json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    )
    train = nlme.examples.indirect_response_data(10, seed=arguments.seed)
    test = TestSubjects.simulate(seed=arguments.seed + 1)
    for name in arguments.only.split(","):
        figures.update(study(name, train, test))
        figures[f"{name}_run"] = conditions()
        record(arguments.json, figures)
    print(json.dumps(figures, indent=1))
    if arguments.json:
        for script in filter(None, arguments.also.split(",")):
            path = Path(__file__).with_name(f"{script}.py")
            subprocess.run([sys.executable, str(path), "--json", str(arguments.json)], check=True)


if __name__ == "__main__":
    main()
