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
# # A ladder of knowledge: from a neural ODE to individual networks
#
# A drug is swallowed, passes through the centre, and raises the production of a response. We simulate ten subjects
# from a known truth and climb a ladder of models that know more and more of it:
#
# 1. `NeuralODE`: three states, nothing else: (depot, central, response)' = NN(depot, central, response);
# 2. `GraphNeuralODE`: what leaves the depot enters the centre;
# 3. `UniversalODE`: the pharmacokinetics, R' = NN(c, R);
# 4. `TargetedNetwork`: turnover of the response, R' = Kin (1 + NN(c)) - Kout R;
# 5. `DeepNLME`: that subjects differ in absorption, volume and turnover;
# 6. `IndividualNetwork`: that they differ in how the drug acts, R' = Kin (1 + NN(c, eta)) - Kout R.
#
# Each is judged on twelve subjects that it has not seen, and on doses that nobody had. The settings here are short,
# so that everything runs in minutes; `benchmarks/deepnlme.py` has the figures.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import nlme_torch as nlme
from nlme_torch.inference.effects import find_modes
from nlme_torch.model.density import Density

torch.set_num_threads(1)  # small problems run fastest so
examples = nlme.examples
train = examples.indirect_response_data(10, seed=1)
truth = examples.IndirectResponse()
effects = 0.1**0.5 * torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
test = nlme.simulate(truth, examples.indirect_response_design(12, seed=2), seed=2, eta=effects)
train

# %%
print(inspect.getsource(examples.IndirectResponse))

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
figure.suptitle("Ten training subjects: a dose at 0, another at about 5 h")
seen = train.frame[train.frame.AMT == 0]
for _, own in seen.groupby("ID"):
    axes[0].plot(own.TIME, own.yPK, ".-", color="#4477AA", alpha=0.5, markersize=3, linewidth=0.8)
    axes[1].plot(own.TIME, own.yPD, ".-", color="#EE6677", alpha=0.5, markersize=3, linewidth=0.8)
for ax, name in zip(axes, ("concentration", "response"), strict=True):
    ax.set(xlabel="time (h)", ylabel=name)

# %% [markdown]
# ## Fits
#
# Rungs 1 to 4 have no random effects: a pooled fit. From rung 5 on the fit is staged, the population first and then,
# by SAEM, how subjects differ.

# %%
pooled = nlme.Pooled(steps=1000)
mixed = nlme.Staged(
    nlme.Pooled(steps=200), nlme.SAEM(schedule=nlme.StepSchedule(exploration=150, smoothing=75), chains=3)
)
models = {
    "1 neural ODE": (examples.NeuralODE(), pooled),
    "2 graph": (examples.GraphNeuralODE(), pooled),
    "3 known PK": (examples.UniversalODE(), pooled),
    "4 targeted": (examples.TargetedNetwork(), pooled),
    "5 DeepNLME": (examples.DeepNLME(), mixed),
    "6 individual network": (examples.IndividualNetwork(), mixed),
    "3 with individual inputs": (examples.IndividualResponse(), mixed),
    "the truth, fitted": (examples.IndirectResponse(), mixed),
}
fits = {name: nlme.fit(model, train, method, seed=1, progress=False) for name, (model, method) in models.items()}
print(fits["6 individual network"])

# %% [markdown]
# The line `-2LL per subject ... when fitted, about ... when left out` stands in the print of every model with a
# network: an estimate from the fit itself of what its subjects would be worth to a fit without them.
#
# ## Subjects that were not fitted
#
# Training and test -2LL, and the error of the response over two days under other doses (0.3 at 0, 3 and 6 h, 1.5 at
# 25 and 33 h) for test subjects whose random effects were found from their first twelve hours. The truth without
# noise is what predictions are held against.

# %%
frame = test.frame
regimen = nlme.Regimen(0.3, every=3.0, additional=2) + nlme.Regimen(1.5, time=25.0, every=8.0, additional=1)
hours = [float(hour) for hour in range(49)]
first_half = nlme.Dataset.from_frame(frame[frame.TIME <= 12], outputs=["yPK", "yPD"])
other_doses = test.with_regimen(regimen, hours)


def responses(model, eta):
    """Response of every test subject at every hour under the other doses, (hour, subject)."""
    density = Density(model, other_doses.batch(), nlme.Auto())
    with torch.no_grad():
        found, _ = density.at().observe(eta[:, None, None])
    batch = density.batch
    wanted = batch.record_mask & (batch.doses.kind == 0)
    return found["yPD"].mean[:, 0, 0].mT[wanted.mT].reshape(12, -1).numpy()


def effects_from_first_half(fit):
    conditional = Density(fit.model, first_half.batch(), fit.solver).at()
    with torch.no_grad():
        draws = conditional.sample(7, torch.Generator().manual_seed(0))[:, :, 0]
    return find_modes(conditional, torch.cat([torch.zeros_like(draws[:, :1]), draws], dim=1)).effects


expected = responses(truth, effects)
predicted = {name: responses(fit.model, effects_from_first_half(fit)) for name, fit in fits.items()}
rows = {}
for name, fit in fits.items():
    rows[name] = {
        "-2LL, training": fit.minus2ll,
        "-2LL, test": nlme.held_out(fit, test).minus2ll,
        "error, other doses": float(np.sqrt(np.mean((predicted[name] - expected) ** 2))),
        "sigma PD": fit.parameters.estimate["sigma_pd"],
    }
table = pd.DataFrame(rows).T
print(table.round({"-2LL, training": 0, "-2LL, test": 0, "error, other doses": 3, "sigma PD": 3}).to_string())

# %%
subject = 4
figure, axes = plt.subplots(2, 4, figsize=(11, 5), sharex=True, sharey=True, layout="constrained")
figure.supxlabel("time (h)")
figure.supylabel("response")
figure.suptitle("A test subject under doses that nobody had in training")
for ax, (name, lines) in zip(axes.flat, predicted.items(), strict=True):
    ax.plot(hours, expected[subject], color="#222222", linewidth=1.6, label="truth")
    ax.plot(hours, lines[subject], color="#EE6677", linewidth=1.4, label="predicted")
    ax.set_title(name, fontsize=9)
legend = axes[0, 0].legend(frameon=False, fontsize=8)

# %% [markdown]
# Without random effects no rung can follow a subject. With them knowledge pays: the network that only has to say *how
# the drug acts* extrapolates almost as well as the truth's own equations, fitted. (A thousand steps leave rungs 1 to
# 3 unfinished; more of them narrow their distance to rung 4, not that to rung 5.)
#
# ## A network that wins training and loses hold-out
#
# Rung 3 with individual inputs, R' = NN(c, R, eta), is free to do anything with the response. `nlme.compare` says
# what comes of it; without `held_out=` it judges by the estimate from the fits themselves.

# %%
contest = {"free": fits["3 with individual inputs"], "truth": fits["the truth, fitted"]}
comparison = nlme.compare(held_out=test, **contest)
print(comparison.table[["-2LL", "held out", "parameters", "AIC"]].round(1).to_string())
print(comparison.verdict or "no fit wins training and loses hold-out")

# %%
estimated = nlme.compare(**contest)
print(estimated.table[["-2LL", "left out"]].round(1).to_string())
print(estimated.verdict or "no fit wins training and loses hold-out")

# %% [markdown]
# ## What the network has learnt
#
# As a function of the concentration, with its spread between subjects; ticks mark the concentrations at observations.
# The truth is a sigmoid Emax curve, whose typical subject is drawn dashed.

# %%
fit = fits["6 individual network"]
axes = nlme.plots.network(fit, "effect", labels={"effect": "relative rise of the production"})
c = np.linspace(0, axes.get_xlim()[1], 200)
axes.plot(c, 2.9 * c**1.5 / (0.05**1.5 + c**1.5), "k--", linewidth=1.2, label="truth, typical subject")
axes.set_xlabel("concentration")
for outside in axes.figure.legends:
    outside.remove()
legend = axes.legend(frameon=False, fontsize=8)
axes.figure.set_layout_engine("constrained")

# %%
function = nlme.diagnostics.network_function(fit, "effect", points=6)
around = function.band.set_index("input")[["lower", "median", "upper"]]
print(around.join(function.population.set_index("input")["output"].rename("typical")).round(2).to_string())

# %% [markdown]
# ## Individual fits

# %%
figure = nlme.plots.fits(fit)
