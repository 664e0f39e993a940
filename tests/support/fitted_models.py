"""Fits for tests of diagnostics and plots: one real and quick, others with effects made by hand."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch

import nlme_torch as nlme
from nlme_torch.inference.effects.effect_estimates import EffectEstimates
from nlme_torch.model.density.density import Density


@cache
def quick_fit():
    """The classical model on theophylline after a short SAEM: about a second."""
    method = nlme.SAEM(schedule=nlme.StepSchedule(exploration=20, smoothing=15))
    model, data = nlme.examples.TheophyllineClosedForm(), nlme.examples.theophylline()
    likelihood = nlme.ImportanceSampling(samples=200)
    return nlme.fit(model, data, method, seed=1, likelihood=likelihood, progress=False)


def made_fit(model, data, draws=40, seed=0, trace=None):
    """A fit whose parameters are the model's own and whose effects are random numbers."""
    conditional = Density(model, data.batch(), nlme.Tsit5()).at()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        modes = 0.7 * conditional.sample(1, generator)[:, 0, 0]
        kept = modes[:, None] + 0.3 * conditional.sample(draws, generator)[:, :, 0]
    identity = torch.eye(len(modes), dtype=modes.dtype)[:, :, None].expand(-1, -1, data.n_subjects)
    effects = EffectEstimates(modes, identity, modes.new_zeros(data.n_subjects), kept.mean(1), identity, kept)
    fit = replace(quick_fit(), model=model, data=data, effects=effects)
    return fit if trace is None else replace(fit, trace=trace)


@cache
def hybrid_fit():
    """Random weights on a network of time and state, inside a differential equation."""
    model = nlme.examples.TheophyllineHybrid(omega=nlme.Diagonal(0.3)).initialise(4)
    return made_fit(model, nlme.examples.theophylline())


@cache
def low_rank_fit():
    model = nlme.examples.TheophyllineFourNetworks(nlme.LowRank(2)).initialise(2)
    return made_fit(model, nlme.examples.theophylline())


class SharedNetworks(nlme.Model):
    """Closed form, three outcomes; shared networks of state and latents, of a covariate, and unused."""

    def __init__(self):
        super().__init__()
        self.v = nlme.LogNormal(30.0, omega=0.1)
        self.z = nlme.Latent(2)
        self.effect = nlme.MLP(3, 4, 1)
        self.size = nlme.MLP(1, 3, 2)
        self.idle = nlme.MLP(1, 2, 1)
        self.sigma = nlme.Positive(0.5)

    def individual(self, p, cov):
        small, large = p.size(cov.Wt / 70)
        return {"dose": cov.Dose * cov.Wt * torch.exp(0.1 * small + 0.01 * large)}

    def predict(self, t, p, cov):
        concentration = p.dose / p.v * torch.exp(-0.1 * t)
        return concentration, p.effect(concentration, 2 * p.z[0], p.z[1])

    def observe(self, t, y, p):
        return {
            "conc": dist.Normal(y[0], p.sigma),
            "effect": dist.StudentT(5.0, y[1], 0.3),
            "count": dist.Poisson(1 + y[0]),
        }


def three_outcomes():
    """Theophylline with two more outcomes and a category."""
    frame = nlme.examples.theophylline().frame
    numbers = np.random.default_rng(0)
    frame["effect"] = numbers.normal(size=len(frame))
    frame["count"] = numbers.poisson(1 + frame["conc"])
    frame["sex"] = np.where(frame["Subject"] % 2 == 0, "female", "male")
    return nlme.Dataset.from_frame(
        frame,
        id="Subject",
        time="Time",
        outputs=["conc", "effect", "count"],
        covariates=["Wt", "Dose", "sex"],
    )


@cache
def shared_fit():
    return made_fit(SharedNetworks().initialise(3), three_outcomes())


def walking_trace(model, iterations=40):
    """A trace in which every parameter of a model walks at random."""
    from nlme_torch.model.declare.scalars import all_scalars
    from nlme_torch.model.declare.values import parameter_values

    numbers = np.random.default_rng(1)
    scalars = all_scalars(model, parameter_values(model))
    walks = {name: float(value[0]) + 0.1 * numbers.normal(size=iterations).cumsum() for name, value in scalars.items()}
    phases = ["burn-in"] * 5 + ["explore"] * 20 + ["smooth"] * (iterations - 25)
    columns = {"iteration": range(1, iterations + 1), "phase": phases, **walks, "complete_loglik": -100.0}
    return pd.DataFrame({**columns, "acceptance_prior": 0.2, "acceptance_block": 0.4})


def forward(weights, sizes, *inputs, output="identity"):
    """A tanh network by numpy alone, from flat weights."""
    hidden, start = np.stack(np.broadcast_arrays(*inputs)), 0
    for layer, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        matrix = weights[start : start + n_in * n_out].reshape(n_out, n_in)
        bias = weights[start + n_in * n_out : start + (n_in + 1) * n_out]
        start += (n_in + 1) * n_out
        hidden = (matrix @ hidden.reshape(n_in, -1) + bias[:, None]).reshape(n_out, *hidden.shape[1:])
        if layer < len(sizes) - 2:
            hidden = np.tanh(hidden)
    return np.exp(hidden) if output == "exp" else hidden
