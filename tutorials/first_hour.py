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
# # The first hour
#
# Phenobarbital in 59 newborn infants: doses twice a day, one to six concentrations each (Grasela and Donn 1985). A
# model is written, fitted and compared; its estimates are read, a new child is dosed, and a population is simulated
# with the uncertainty of the estimates. Ten minutes to read, a minute to run.

# %%
import tempfile

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch

import nlme_torch as nlme

torch.set_num_threads(1)  # small problems run fastest so

# %% [markdown]
# ## The data
#
# A table as NONMEM reads it. Columns play the part that their names say; units are written on every axis from here on.
# `nlme.Dataset.from_csv(path, ...)` reads a file, and names its lines where something is wrong.

# %%
frame = nlme.examples.phenobarbital().frame
data = nlme.Dataset.from_frame(
    frame, covariates=["WT", "APGR"], units={"TIME": "h", "DV": "mg/L", "AMT": "mg", "WT": "kg"}
)
data

# %% [markdown]
# ## A model
#
# One compartment, in closed form. `LogNormal(0.005)` is a typical value times exp(eta). What every child has of its own
# is an attribute of `p`.


# %%
class Phenobarbital(nlme.Model):
    states = ("central",)

    def __init__(self, *covariates):
        super().__init__()
        size = {name: (nlme.Power("WT", ref=1.4),) if name in covariates else () for name in ("cl", "v")}
        self.cl = nlme.LogNormal(0.007, *size["cl"], omega=0.2)  # L/h
        self.v = nlme.LogNormal(1.4, *size["v"], omega=0.2)  # L
        self.sigma = nlme.Positive(0.1)

    def compartments(self, p):
        return nlme.compartments.OneCompartment(p.cl, p.v)

    def observe(self, t, y, p):
        return {"DV": nlme.observation.Proportional(y.central / p.v, p.sigma)}


base = nlme.fit(Phenobarbital(), data, nlme.FOCEI(), progress=False)
base

# %% [markdown]
# ## Which covariates?
#
# Weight on volume, then on clearance too. Models that are nested are recognised, and tested.

# %%
volume = nlme.fit(Phenobarbital("v"), data, nlme.FOCEI(), progress=False)
both = nlme.fit(Phenobarbital("v", "cl"), data, nlme.FOCEI(), progress=False)
nlme.compare(base=base, volume=volume, both=both)

# %% [markdown]
# ## Everything estimated, in one table
#
# Its names are those that `with_values` takes.

# %%
fit = both.with_standard_errors()
fit.parameters[["estimate", "rse_percent", "lower", "upper", "bsv_cv_percent", "shrinkage_percent", "kind"]].round(4)

# %%
published = Phenobarbital("v", "cl").with_values({"cl": 0.0066, "cl_WT": 1.0, "v": 1.35, "v_WT": 1.0})
nlme.ofv(published, data, nlme.FOCEI())

# %% [markdown]
# ## Does it fit?

# %%
nlme.plots.fits(fit, subjects=fit.data.subjects[:6])
# %%
nlme.plots.goodness_of_fit(fit)
# %% [markdown]
# ## A new child
#
# 1.1 kg, two doses, one concentration. Its effects lie between the typical child and the measurement; under another
# regimen it keeps them.

# %%
child = pd.DataFrame(
    {"ID": "Ada", "TIME": [0.0, 12.0, 20.0], "AMT": [22.0, 3.0, 0.0], "DV": [np.nan, np.nan, 17.0], "MDV": [1, 1, 0]}
)
ada = fit.individualise(nlme.Dataset.from_frame(child.assign(WT=1.1, APGR=7), covariates=["WT", "APGR"]))
ada

# %%
maintenance = nlme.Regimen(22.0) + nlme.Regimen(2.5, time=12.0, every=12.0, additional=9)
ada.predict(ada.data.with_regimen(maintenance, [24.0, 72.0, 120.0]))[["id", "time", "PRED", "IPRED"]].round(2)

# %% [markdown]
# ## A weight that was not written down
#
# A covariate that is missing is refused unless you say what to do. What was done is printed with its counts.

# %%
gaps = frame.copy()
gaps.loc[gaps.ID.isin([3, 9, 27]), "WT"] = np.nan
try:
    nlme.Dataset.from_frame(gaps, covariates=["WT", "APGR"])
except nlme.DataError as error:
    print(error)
nlme.Dataset.from_frame(gaps, covariates=["WT", "APGR"], missing={"WT": "median"})

# %% [markdown]
# ## How sure is a prediction?
#
# 300 children under a regimen, whose weights are those of the study (drawn with replacement), simulated forty times
# with parameters drawn from their uncertainty: on the estimation scale, so that no variance is negative.
# `nlme.sir(fit)` or a bootstrap may stand in place of `"asymptotic"`. The lines are quantiles of the children, the
# bands what the estimates leave open of them.

# %%
times = np.linspace(1.0, 132.0, 45)
many = nlme.simulate(
    fit, maintenance, times=times, subjects=300, covariates=data, replicates=40, uncertainty="asymptotic", seed=1
)
quantiles = many.quantiles([0.05, 0.5, 0.95])
quantiles.head(3).round(2)

# %%
figure, axes = plt.subplots(figsize=(6.0, 3.4), layout="constrained")
for probability, part in quantiles.groupby("quantile"):
    axes.fill_between(part["time"], part["lower"], part["upper"], alpha=0.3)
    axes.plot(part["time"], part["median"], label=f"{100 * probability:.0f} % of children")
axes.set(xlabel="time [h]", ylabel="DV [mg/L]", ylim=(0, None))
figure.legend(loc="outside lower center", ncols=3, frameon=False)
# %% [markdown]
# ## Put away and taken out again
#
# Predicting, individualising and simulating need the model's class and the folder, not the data.

# %%
folder = tempfile.mkdtemp() + "/run1"
fit.save(folder)
again = nlme.load(folder, Phenobarbital("v", "cl"))
again.individualise(ada.data).parameters

# %% [markdown]
# ## Two outcomes measured in one sample
#
# If errors of two outcomes at one time are correlated (NONMEM's L2), `observe` says so; either may be missing or below
# its limit of quantification.


# %%
class Metabolite(Phenobarbital):
    def __init__(self):
        super().__init__()
        self.ratio, self.noise = nlme.LogNormal(0.3), nlme.Positive(0.15)
        self.rho = nlme.Bounded(0.5, -1, 1)

    def observe(self, t, y, p):
        drug = y.central / p.v
        outcomes = {
            "DV": dist.LogNormal(drug.log(), p.sigma),
            "metabolite": dist.LogNormal((p.ratio * drug).log(), p.noise),
        }
        return nlme.observation.MultivariateNormal(outcomes, correlation=p.rho)


design = nlme.Dataset.from_regimen(maintenance, [24.0, 72.0, 120.0], subjects=400, outputs=["DV", "metabolite"])
samples = nlme.simulate(Metabolite(), design, seed=2).frame.dropna(subset=["DV"])
print(np.log(samples[["DV", "metabolite"]]).corr().round(2))

# %% [markdown]
# ## A mistake
#
# The line of your code, and what to write.


# %%
class Mistaken(Phenobarbital):
    def compartments(self, p):
        return nlme.compartments.OneCompartment(p.clr, p.v)


try:
    nlme.fit(Mistaken(), data, progress=False)
except nlme.ModelError as error:
    print(error)
