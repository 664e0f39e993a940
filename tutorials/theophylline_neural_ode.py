# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Theophylline with neural differential equations
#
# Twelve subjects swallowed theophylline; eleven concentrations each. Four models of the same data:
#
# * **a** the classical one: one compartment, first-order absorption, log-normal ka, CL and V;
# * **b** a published tutorial model: four small networks with subject-specific weights, w_i ~ N(z, I);
# * **c** the same networks with learned variances of the weights;
# * **d** a hybrid that keeps the mass balance and learns only the absorption rate.

# %%
import inspect
import math
from pathlib import Path

import pandas as pd
import torch

import nlme_torch as nlme

torch.set_num_threads(1)  # small problems run fastest so
folder = Path("runs/theophylline")
folder.mkdir(parents=True, exist_ok=True)
data = nlme.examples.theophylline()
data

# %% [markdown]
# ## (a) What the networks have to beat

# %%
fit_a = nlme.fit(nlme.examples.TheophyllineClassical(), data, nlme.SAEM(), seed=1)
print(fit_a)

# %% [markdown]
# ## (b) Four networks, as published
#
# The depot holds the dose d in mg; the centre is compared with concentrations although nothing divides by a volume, and
# what leaves the depot is not what enters the centre: `d * fC2(t)` comes from nowhere. It does not conserve mass.

# %%
print(inspect.getsource(nlme.examples.TheophyllineFourNetworks))

# %% [markdown]
# Every weight of every subject is N(z, 1): the prior forces differences between subjects that the data may not want, so
# the likelihood depends on *where* the weights are as much as on the curve they draw. That is why several starting
# points are tried at once (they share the batch axis, so six cost little more than one), each after a pooled fit, and
# why sigma alone says nothing: a small residual error can be bought with weights whose spread makes the data
# improbable.

# %%
networks = nlme.SAEM(
    starts=6, spread=1.0, chains=5, warm_up=nlme.Pooled(200), schedule=nlme.StepSchedule(exploration=300, smoothing=200)
)
fit_b = nlme.fit(
    nlme.examples.TheophyllineFourNetworks(), data, networks, seed=1, solver=nlme.Tsit5(rtol=1e-5, atol=1e-6)
)
print(fit_b)

# %% [markdown]
# ## (c) The same networks with a learned Omega
#
# One variance for all weights of a network. `benchmarks/theophylline.py` compares it with one variance per weight
# (`nlme.Diagonal`) and with weights that vary along two common directions (`nlme.LowRank(2)`): this one is the best by
# BIC.

# %%
fit_c = nlme.fit(
    nlme.examples.TheophyllineFourNetworks(omega=nlme.Scalar(0.3)),
    data,
    networks,
    seed=1,
    solver=nlme.Tsit5(rtol=1e-5, atol=1e-6),
)
print(fit_c)

# %% [markdown]
# ## (d) A hybrid that respects mass
#
# Elimination is CL/V, the volume is back, and what leaves the depot enters the centre. Only the absorption rate is a
# network, of time and of the fraction left, positive by construction. With all weights zero but the output bias it *is*
# model (a).

# %%
print(inspect.getsource(nlme.examples.TheophyllineHybrid))

# %%
fit_d = nlme.fit(nlme.examples.TheophyllineHybrid(), data, networks, seed=1, solver=nlme.Tsit5(rtol=1e-5, atol=1e-6))
print(fit_d)

# %% [markdown]
# ## One table
#
# Likelihoods are marginal: the random effects are integrated out. With three effects importance sampling does it; with
# 28 it fails, as its own k-hat says in the tables above, so that (b) to (d) are annealed from the prior of the effects.
# AIC and BIC charge for every weight and every variance.

# %%
fits = {
    "a classical": fit_a,
    "b four networks, Omega = I": fit_b,
    "c four networks, learned Omega": fit_c,
    "d hybrid": fit_d,
}
rows = {}
for name, fit in fits.items():
    annealed = fit.model.n_effects > 8
    marginal = nlme.loglik(fit, nlme.AnnealedImportanceSampling()) if annealed else fit.log_likelihood
    rows[name] = {
        "parameters": fit.n_parameters,
        "effects": fit.model.n_effects,
        "sigma": round(fit.parameters.estimate["sigma"], 3),
        "log-likelihood": round(marginal.value, 2),
        "MC SE": round(marginal.standard_error, 2),
        "AIC": round(2 * fit.n_parameters + marginal.minus2ll, 1),
        "BIC": round(fit.n_parameters * math.log(data.n_observations) + marginal.minus2ll, 1),
    }
table = pd.DataFrame(rows).T.astype({"parameters": int, "effects": int})
table.to_csv(folder / "comparison.csv")
print(table.to_string())

# %% [markdown]
# ## Pictures

# %%
for letter, fit in zip("abcd", fits.values(), strict=True):
    figure = nlme.plots.fits(fit)
    figure.savefig(folder / f"fits_{letter}.png", dpi=110)

# %%
figure = nlme.plots.convergence(fit_d)
figure.savefig(folder / "convergence_d.png", dpi=110)

# %%
axes = nlme.plots.network(fit_d, "absorption")
axes.figure.savefig(folder / "absorption_network.png", dpi=110)

# %%
axes = nlme.plots.observation(fit_d, row=3)
axes.figure.savefig(folder / "observation.png", dpi=110)

# %% [markdown]
# Each fit is saved as JSON, safetensors and CSV; `nlme.load` reads it back.

# %%
for letter, fit in zip("abcd", fits.values(), strict=True):
    fit.save(folder / f"fit_{letter}", overwrite=True)
print(f"pictures, tables and fits are in {folder}")
