"""Do covariate effects leak into random effects when they are regressed on covariates after the fit?

    python benchmarks/covariates.py --json FILE [--only indirect,rich,bimodal] [--seed 1] [--subjects 50]

Three ways to the same network of covariates, with the same L2 penalty:

joint: fitted together with the random effects;
twostage: a fit without covariates, whose conditional modes are regressed on the covariates;
augment: ``nlme.augment``, which regresses conditional distributions and refits Omega.

indirect: indirect response with six covariates (``nlme.examples.covariate_data``), 50 training and 20 test subjects.
    covariate_WAY_mae: mean absolute error of concentration and response predicted from covariates alone (eta = 0) for
    the test subjects, against the covariate part of the truth; ``_pk`` and ``_pd`` apart; covariate_none_mae without
    covariates. covariate_WAY_omega_PARAMETER: variances; the truth is 0.05. The strength of the penalty of twostage and
    augment is chosen by five-fold cross-validation over the training subjects; joint takes that of augment.
rich: 200 subjects with ten samples, and 200 more with one (sigma 1, omega 0.15). covariate_rich_WAY_mae, error of the
    mean predicted from the covariate; covariate_sparse_WAY_mae with the sparse subjects added.
bimodal: means -1 and 1 (omega 0.2, sigma 0.1), 400 subjects with four samples. bimodal_WAY_mae, bimodal_WAY_omega.
"""

import argparse
import importlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from record import Figures, conditions, record
from torch import Tensor

import nlme_torch as nlme
from nlme_torch.model.declare.augmented import NETWORK, augmented
from nlme_torch.model.density.density import Density

regression = importlib.import_module("nlme_torch.inference.strategies.augment")
examples = nlme.examples
PARAMETERS = ("smax", "sc50", "ka", "vc", "kout")
STRENGTHS = (10.0, 30.0, 100.0, 300.0)


@dataclass
class Regression:
    """A network of covariates fitted to what a fit without them knows of the random effects.

    With ``modes`` the conditional modes are taken for measurements, otherwise conditional distributions as normal
    likelihoods, as ``nlme.augment`` does.
    """

    fit: nlme.Fit
    network: nlme.MLP
    covariates: tuple[str, ...]
    modes: bool

    def __post_init__(self) -> None:
        batch = self.fit.density.batch
        self.inputs = torch.stack([batch.covariates[name] for name in self.covariates])
        if self.network.awaits_scale:
            self.network.set_scale(self.inputs.std(1, correction=0).tolist(), self.inputs.mean(1).tolist())
        omega = self.fit.density.at().covariance()[0].detach()
        effects = torch.arange(len(omega))
        self.information, self.linear = regression._likelihoods(self.fit, effects, omega)
        self.measured = self.fit.effects.modes.mT

    def log_density(self, values: dict[str, Tensor], subjects: Tensor) -> Tensor:
        """Of some subjects, in total."""
        found = self.network.bind(values["weights"][:, None])(*self.inputs[:, subjects])
        shifts = torch.stack(found if isinstance(found, tuple) else (found,), -1)
        mean, deviations = values["typical"] + shifts, values["log_deviation"].exp()
        if self.modes:
            return torch.distributions.Normal(mean, deviations).log_prob(self.measured[subjects]).sum()
        return regression._log_marginal(self.information[subjects], self.linear[subjects], mean, torch.diag(deviations))

    def maximum(self, strength: float, subjects: Tensor) -> dict[str, Tensor]:
        """Weights, shifts of the typical values, logarithms of the standard deviations."""
        deviations = self.fit.density.at().covariance()[0].detach().diagonal().sqrt()
        values = {
            "weights": self.network.weights.detach().clone(),
            "typical": torch.zeros_like(deviations),
            "log_deviation": deviations.log(),
        }
        for value in values.values():
            value.requires_grad_()
        optimiser = torch.optim.LBFGS(
            list(values.values()), max_iter=300, history_size=20, tolerance_grad=1e-7, tolerance_change=1e-12,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = strength * values["weights"].square().sum() - self.log_density(values, subjects)
            loss.backward()
            return loss

        optimiser.step(closure)
        return {name: value.detach() for name, value in values.items()}

    def cross_validated(self, strengths: tuple[float, ...], folds: int = 5) -> float:
        """The strength that predicts left-out subjects best."""
        count = self.inputs.shape[1]
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
        scores = dict.fromkeys(strengths, 0.0)
        for strength in strengths:
            for fold in range(folds):
                left = order[fold::folds]
                kept = torch.tensor(sorted(set(range(count)) - set(left.tolist())))
                scores[strength] += float(self.log_density(self.maximum(strength, kept), left))
        print("modes" if self.modes else "distributions", {key: round(value, 2) for key, value in scores.items()})
        return max(scores, key=lambda strength: scores[strength])

    def model(self, strength: float, parameters: tuple[str, ...]) -> tuple[nlme.Model, Tensor]:
        """The model with the network, and the variances of the random effects."""
        found = self.maximum(strength, torch.arange(self.inputs.shape[1]))
        model = augmented(self.fit.model, self.network, self.covariates, parameters)
        with torch.no_grad():
            getattr(model, NETWORK).weights.copy_(found["weights"])
            for name, move in zip(parameters, found["typical"], strict=True):
                model.get_parameter(f"{name}.typical").add_(move)
        return model, (2 * found["log_deviation"]).exp()


def typical(model: nlme.Model, data: nlme.Dataset) -> dict[str, Tensor]:
    """Predictions of every observation from covariates alone."""
    density = Density(model, data.batch(), nlme.Auto())
    batch = density.batch
    with torch.no_grad():
        zero = batch.times.new_zeros(model.n_effects, 1, 1, batch.n_subjects)
        distributions, _ = density.at().observe(zero)
    return {name: distributions[name].mean[:, 0, 0][outcome.mask] for name, outcome in batch.outcomes.items()}


def indirect(seed: int, subjects: int) -> Figures:
    """The indirect response with six covariates."""
    train, test = examples.covariate_data(subjects, seed=seed), examples.covariate_data(20, seed=seed + 1)
    expected = typical(examples.CovariateTruth(), test)
    names = examples.covariate_models.NAMES
    figures: Figures = {}

    def judge(way: str, model: nlme.Model, variances: Tensor | np.ndarray, seconds: float) -> None:
        found = typical(model, test)
        errors = {name: float((found[name] - expected[name]).abs().mean()) for name in expected}
        own = {
            "mae": sum(errors.values()) / 2,
            "mae_pk": errors["yPK"],
            "mae_pd": errors["yPD"],
            "cpu_seconds": seconds,
        }
        own |= {f"omega_{name}": float(value) for name, value in zip(PARAMETERS, variances, strict=True)}
        figures.update({f"covariate_{way}_{key}": value for key, value in own.items()})
        print(way, {key: round(value, 4) for key, value in own.items()}, flush=True)

    saem = nlme.SAEM(schedule=nlme.StepSchedule(exploration=200, smoothing=100), chains=4)
    begun = time.process_time()
    without = nlme.fit(examples.WithoutCovariates(), train, saem, seed=1, likelihood=nlme.FOCEI(), progress=False)
    judge("none", without.model, np.diag(without.omega), time.process_time() - begun)
    chosen = {}
    for way, modes in (("twostage", True), ("augment", False)):
        begun = time.process_time()
        stage = Regression(without, examples.CovariateNetwork().shifts, names, modes)
        chosen[way] = stage.cross_validated(STRENGTHS)
        figures[f"covariate_{way}_strength"] = chosen[way]
        judge(way, *stage.model(chosen[way], PARAMETERS), time.process_time() - begun)
    begun = time.process_time()
    figures["covariate_joint_strength"] = chosen["augment"]
    method = nlme.Staged(nlme.Pooled(steps=150), saem)
    model = examples.CovariateNetwork(chosen["augment"])
    fit = nlme.fit(model, train, method, seed=1, likelihood=nlme.FOCEI(), progress=False)
    print(fit)
    judge("joint", fit.model, np.diag(fit.omega), time.process_time() - begun)
    return figures


def means(data: nlme.Dataset, expected: np.ndarray) -> dict[str, tuple[float, float]]:
    """Error of the mean predicted from the covariate, and omega, of every way."""
    network = examples.SubjectMeanNetwork().shift
    without = nlme.fit(examples.SubjectMean(), data, nlme.FOCEI(), progress=False)
    joint = nlme.fit(examples.SubjectMeanNetwork(), data, nlme.FOCEI(), progress=False)
    regressed = nlme.augment(without, network, likelihood=nlme.FOCEI())
    stage, variance = Regression(without, network, ("c",), modes=True).model(0.1, ("mean",))
    models = {
        "none": (without.model, without.omega.iloc[0, 0]),
        "twostage": (stage, float(variance)),
        "augment": (regressed.model, regressed.omega.iloc[0, 0]),
        "joint": (joint.model, joint.omega.iloc[0, 0]),
    }
    found = {}
    for way, (model, omega) in models.items():
        found[way] = float(np.abs(typical_means(model, data) - expected).mean()), float(omega) ** 0.5
    print(found, flush=True)
    return found


def typical_means(model: nlme.Model, data: nlme.Dataset) -> np.ndarray:
    """The predicted mean of every subject."""
    density = Density(model, data.batch(), nlme.Auto())
    with torch.no_grad():
        zero = density.batch.times.new_zeros(1, 1, 1, density.batch.n_subjects)
        distributions, _ = density.at().observe(zero)
    return distributions["DV"].mean[0, 0, 0].numpy()


def rich(seed: int) -> Figures:
    """Rich subjects alone, and with sparse ones."""
    figures: Figures = {}
    for case, sparse in (("rich", 0), ("sparse", 200)):
        data = examples.rich_and_sparse_data(sparse=sparse, seed=seed)
        expected = examples.smooth_effect(data.covariates["c"].to_numpy())
        for way, (error, omega) in means(data, expected).items():
            figures[f"covariate_{case}_{way}_mae"] = error
            figures[f"covariate_{case}_{way}_omega"] = omega
    return figures


def bimodal(seed: int) -> Figures:
    """Two kinds of subjects."""
    data = examples.bimodal_data(seed=seed)
    found = means(data, examples.bimodal_effect(data.covariates["c"].to_numpy()))
    figures: Figures = {}
    for way, (error, omega) in found.items():
        figures[f"bimodal_{way}_mae"], figures[f"bimodal_{way}_omega"] = error, omega
    return figures


def main() -> None:
    """Run the studies and write their figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the figures, as flat keys")
    parser.add_argument("--only", default="bimodal,rich,indirect", help="studies, comma-separated")
    parser.add_argument("--seed", type=int, default=1, help="seed of the data; of the test subjects the next one")
    parser.add_argument("--subjects", type=int, default=50, help="training subjects of the indirect response")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    figures: Figures = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else {}
    for name in arguments.only.split(","):
        if name == "indirect":
            figures.update(indirect(arguments.seed, arguments.subjects))
        else:
            figures.update({"rich": rich, "bimodal": bimodal}[name](arguments.seed))
        figures[f"{name}_run"] = conditions()
        record(arguments.json, figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
