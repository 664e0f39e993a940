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
# # Viral dynamics: what a network has to learn, and what it can be spared
#
# One dose of a drug that keeps a virus from infecting cells; the virus is counted eight times in four weeks. The data
# are simulated from the classical model of target cells, infected cells and virus. Three models of the same twenty
# subjects:
#
# * **classical**: the equations of the truth;
# * **growth**: V' = NN(V, C, eta) V; nothing is known but that a virus multiplies;
# * **infection**: known cells and virus; a network says how the virus infects under the drug.
#
# They are judged by the likelihood of subjects that none of them has seen. `benchmarks/viral.py` has the figures of
# longer fits, and those of a published data set.

# %%
import inspect

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import nlme_torch as nlme

torch.set_num_threads(1)  # small problems run fastest so
examples = nlme.examples
train, test = examples.viral_data(20, seed=1), examples.viral_data(60, seed=1001)
train

# %%
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
axes.set(xlabel="time (day)", ylabel="log10 copies/mL", title="Twenty training subjects")
for _, own in train.frame[train.frame.AMT == 0].groupby("ID"):
    axes.plot(own.TIME, own.Virus, ".-", color="#4477AA", alpha=0.6, linewidth=0.9)

# %% [markdown]
# ## Classical

# %%
print(inspect.getsource(examples.ViralDynamics.dynamics))

# %%
classical = nlme.fit(examples.ViralDynamics(), train, nlme.FOCEI(), seed=1, progress=False)
print(classical)

# %% [markdown]
# ## A network for the growth
#
# The virus falls and returns by orders of magnitude, so the network reads logarithms. Two random effects are inputs
# of the network; the first also says how large the infection is at the beginning. The fit is staged: the typical
# subject first, then, by SAEM, how subjects differ.

# %%
print(inspect.getsource(examples.ViralGrowthNetwork.dynamics))
mixed = nlme.Staged(
    nlme.Pooled(steps=200), nlme.SAEM(schedule=nlme.StepSchedule(exploration=120, smoothing=60), chains=5)
)
growth = nlme.fit(examples.ViralGrowthNetwork(), train, mixed, seed=1, progress=False)
print(growth)

# %% [markdown]
# ## A network for the infection alone

# %%
print(inspect.getsource(examples.ViralInfectionNetwork.dynamics))
infection = nlme.fit(examples.ViralInfectionNetwork(), train, mixed, seed=1, progress=False)
print(infection)

# %% [markdown]
# ## Who predicts other subjects
#
# -log-likelihood per subject, of the twenty training subjects and of sixty others; the truth, at the values that the
# data were simulated from, is the bar.

# %%
truth = nlme.fit(examples.ViralTruth(), train, nlme.FOCEI(optimiser=nlme.Adam(iterations=1)), progress=False)
fits = {"truth, not fitted": truth, "classical": classical, "growth": growth, "infection": infection}
sampling = nlme.ImportanceSampling(samples=2000)
rows = {}
for name, fit in fits.items():
    rows[name] = {
        "parameters": 0 if fit is truth else fit.n_parameters,
        "training": nlme.loglik(fit, sampling).minus2ll / 2 / train.n_subjects,
        "held out": nlme.held_out(fit, test, sampling).minus2ll / 2 / test.n_subjects,
        "sigma": fit.parameters.estimate["sigma"],
    }
print(pd.DataFrame(rows).T.round({"parameters": 0, "training": 2, "held out": 2, "sigma": 3}).to_string())

# %% [markdown]
# The training subjects happen to be harder than the others, also for the truth: only differences within a column mean
# anything. On held-out subjects both networks stay within half a unit of the classical model, and the one that was
# spared more of what is known is nearer. In training the network for the infection beats the classical model, and its
# print has said above what that is worth.
#
# ## Predictions of subjects that were not fitted
#
# Their random effects are found from their own samples.

# %%
figure, axes = plt.subplots(2, 3, figsize=(9.5, 5), sharex=True, sharey=True, layout="constrained")
figure.supxlabel("time (day)")
figure.supylabel("log10 copies/mL")
few = test.subset(test.subjects[:6]).with_times(np.linspace(0, 28, 57))
colours = {"classical": "#4477AA", "growth": "#EE6677", "infection": "#228833"}
for name, colour in colours.items():
    table = fits[name].individualise(few).predictions
    for ax, (subject, own) in zip(axes.flat, table.groupby("id"), strict=True):
        ax.plot(own.time, own.IPRED, "-", color=colour, linewidth=1.3, label=name)
        ax.plot(own.time, own.DV, "o", color="#222222", markersize=3.5)
        ax.set_title(f"subject {subject}", fontsize=9)
legend = axes[0, 0].legend(frameon=False, fontsize=8)

# %% [markdown]
# ## What the networks have learnt
#
# Growth as a function of the virus, at the drug that the observations had on average; infection as a function of the
# effect of the drug, where the truth is a straight line from one to zero. The network falls faster, with a larger
# EC50: twenty subjects do not tell the two apart.

# %%
labels = {"growth": "growth rate of the virus (1/day)", "input 3": "(log10 virus - 4) / 2", "input 4": "drug"}
axes = nlme.plots.network(growth, "growth", labels=labels)
axes.figure.set_layout_engine("constrained")

# %%
axes = nlme.plots.network(
    infection, "infection", {"log10 virus": 0.0, "effect of the drug": "vary", "eta": None}, labels={"infection": "NN"}
)
axes.figure.set_layout_engine("constrained")

# %%
function = nlme.diagnostics.network_function(
    infection, "infection", {"log10 virus": 0.0, "effect": "vary", "eta": None}, limits=(0.0, 0.9), points=7
)
typical = function.population["output"].to_numpy()
shown = pd.DataFrame({"effect": np.linspace(0, 0.9, 7), "relative infection": typical / typical[0]})
shown["truth"] = 1 - shown["effect"]
print(shown.round(2).to_string(index=False))
