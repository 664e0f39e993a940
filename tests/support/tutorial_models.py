"""The models of Bauer's NONMEM tutorial, their data, and NONMEM's estimates as parameters of ours.

R. J. Bauer, CPT Pharmacometrics Syst Pharmacol 2019, 8:525-537 (doi:10.1002/psp4.12404) and 8:538-556
(doi:10.1002/psp4.12422). The data may not be bundled: they and NONMEM's numbers stand beside the checkout in shared/.
"""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch

import nlme_torch as nlme

SHARED = Path(__file__).resolve().parents[3] / "shared"
AVAILABLE = (SHARED / "reference" / "nonmem_tutorial.json").exists()
SITES, SUBJECTS, OCCASIONS = 20, 10, 3
LIMIT = -3.5  # log concentration


def reference(name):
    """NONMEM's runs of one data set: method to objective, estimates, standard errors, seconds."""
    block = json.loads((SHARED / "reference" / "nonmem_tutorial.json").read_text())[name]
    return {run["method"]: run for run in block["runs"]}


def table(name):
    return pd.read_csv(SHARED / "data" / f"bauer_{name}.csv")


def lower(estimates, kind, first, last):
    """The entries first..last of a symmetric matrix such as OMEGA, as a nested list."""
    matrix = np.zeros((last - first + 1,) * 2)
    for row in range(first, last + 1):
        for column in range(first, row + 1):
            matrix[row - first, column - first] = matrix[column - first, row - first] = estimates[
                f"{kind}({row},{column})"
            ]
    return matrix.tolist()


class Covariates(nlme.Model):
    """One compartment, infusions; clearance and volume by weight, age and sex; proportional error."""

    states = ("central",)

    def __init__(self):
        super().__init__()
        for name in ("cl", "v"):
            effects = nlme.Power("WT", ref=70), nlme.Power("AGE", ref=50), nlme.Shift("SEX")
            setattr(self, name, nlme.LogNormal(3.0 if name == "cl" else 33.0, *effects, omega=0.05))
        self.omega = nlme.Omega("cl", "v", structure="full")
        self.sigma = nlme.Positive(0.22)

    def compartments(self, p):
        return nlme.compartments.OneCompartment(clearance=p.cl, volume=p.v)

    def observe(self, t, y, p):
        f = y.central / p.v
        return {"DV": dist.Normal(f, p.sigma * f)}


def covariates_data():
    frame = table("501")
    frame["MDV"] = ((frame["AMT"] > 0) | (frame["DV"] <= 0)).astype(int)
    return nlme.Dataset.from_frame(frame, covariates=["WT", "AGE", "SEX"])


def covariates_params(estimates):
    e = estimates
    return {
        "cl": math.exp(e["THETA1"]),
        "v": math.exp(e["THETA2"]),
        "cl_WT": e["THETA3"],
        "v_WT": e["THETA4"],
        "cl_AGE": e["THETA5"],
        "v_AGE": e["THETA6"],
        "cl_SEX": e["THETA7"],
        "v_SEX": e["THETA8"],
        "sigma": e["SIGMA(1,1)"] ** 0.5,
        "omega_cl": e["OMEGA(1,1)"],
        "omega_cl,v": e["OMEGA(2,1)"],
        "omega_v": e["OMEGA(2,2)"],
    }


class Sites(nlme.Model):
    """One compartment, a bolus on each occasion; effects of site, subject and occasion; all of a site in one block.

    What NONMEM calls a subject is the covariate WHO (0 to 9) of a site here, its occasions are numbered through within
    the site (VISIT, 0 to 29), and T is the time since the last dose. All of a site's 82 effects are standard normal;
    three Cholesky factors give them their covariances.
    """

    def __init__(self):
        super().__init__()
        self.cl, self.v = nlme.Positive(3.4), nlme.Positive(55.0)
        self.z = nlme.Latent(2 + 2 * SUBJECTS + 2 * SUBJECTS * OCCASIONS)
        for level, size in (("subject", 0.17), ("site", 0.3), ("occasion", 0.1)):
            setattr(self, f"{level}_cl", nlme.Positive(size))
            setattr(self, f"{level}_both", nlme.Real(0.0))
            setattr(self, f"{level}_v", nlme.Positive(size))
        self.sigma = nlme.Positive(0.1)

    def predict(self, t, p, cov):
        site, subject = p.z[:2], p.z[2 : 2 + 2 * SUBJECTS]
        occasion = p.z[2 + 2 * SUBJECTS :]

        def chosen(effects, index):
            return sum((index == place) * effect for place, effect in enumerate(effects))

        levels = {
            "site": site,
            "subject": [chosen(subject[part::2], cov.WHO) for part in (0, 1)],
            "occasion": [chosen(occasion[part::2], cov.VISIT) for part in (0, 1)],
        }
        cl, v = p.cl.log(), p.v.log()
        for level, (first, second) in levels.items():
            cl = cl + getattr(p, f"{level}_cl") * first
            v = v + getattr(p, f"{level}_both") * first + getattr(p, f"{level}_v") * second
        return 1000 * torch.exp(-v - torch.exp(cl - v) * cov.T)

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y, p.sigma * y)}


def sites_data():
    frame = table("superid30")
    frame = frame[frame["MDV"] == 0].copy()
    frame["WHO"] = frame["ID"] - frame.groupby("SID")["ID"].transform("min")
    frame["VISIT"] = OCCASIONS * frame["WHO"] + frame["OCC"] - 1
    frame["T"] = frame["TIME"]
    frame["ROW"] = frame.groupby("SID").cumcount()
    columns = ["SID", "ROW", "DV", "WHO", "VISIT", "T"]
    return nlme.Dataset.from_frame(
        frame[columns], id="SID", time="ROW", dv="DV", covariates=[], time_varying=["WHO", "VISIT", "T"]
    )


def sites_params(estimates):
    e = estimates
    params = {"cl": math.exp(e["THETA1"]), "v": math.exp(e["THETA2"]), "sigma": e["SIGMA(1,1)"] ** 0.5}
    for first, level in ((1, "subject"), (3, "site"), (5, "occasion")):
        factor = np.linalg.cholesky(lower(e, "OMEGA", first, first + 1))
        params |= {f"{level}_cl": factor[0, 0], f"{level}_both": factor[1, 0], f"{level}_v": factor[1, 1]}
    return params


class BelowLimit(nlme.Model):
    """Two compartments, a bolus; log concentrations with additive error, a fifth of them below the limit."""

    states = ("central", "peripheral")

    def __init__(self):
        super().__init__()
        for name, value in (("cl", 5.3), ("v1", 5.0), ("q", 2.1), ("v2", 10.7)):
            setattr(self, name, nlme.LogNormal(value, omega=0.15))
        self.omega = nlme.Omega("cl", "v1", "q", "v2", structure="full")
        self.sigma = nlme.Positive(0.3)

    def compartments(self, p):
        return nlme.compartments.TwoCompartment(
            clearance=p.cl, volume=p.v1, intercompartmental_clearance=p.q, peripheral_volume=p.v2
        )

    def observe(self, t, y, p):
        return {"DV": dist.Normal((y.central / p.v1).log(), p.sigma)}


def below_limit_data():
    frame = table("ad3tr4")
    frame["CENS"] = ((frame["DV"] < LIMIT) & (frame["MDV"] == 0)).astype(int)
    frame.loc[frame["CENS"] == 1, "DV"] = LIMIT
    return nlme.Dataset.from_frame(frame)


def below_limit_params(estimates):
    e = estimates
    params = {name: math.exp(e[f"THETA{place}"]) for place, name in enumerate(("cl", "v1", "q", "v2"), 1)}
    return {**params, "sigma": e["THETA5"], "omega": lower(e, "OMEGA", 1, 4)}


class TargetMediated(nlme.Model):
    """Target-mediated disposition: drug and receptor, eight random effects with a full covariance matrix."""

    states = ("central", "peripheral", "receptor")
    names = ("vc", "k10", "k12", "k21", "vm", "kmc", "k03", "k30")

    def __init__(self):
        super().__init__()
        for name, value in zip(self.names, (4.0, -3.1, 0.5, -0.2, 3.2, 0.01, 4.0, -0.1), strict=True):
            setattr(self, name, nlme.LogNormal(math.exp(value), omega=0.5))
        self.omega = nlme.Omega(*self.names, structure="full")
        self.sigma_drug, self.sigma_receptor = nlme.Positive(0.1**0.5), nlme.Positive(0.1**0.5)

    def initial(self, p):
        return 0.0, 0.0, p.k03 / p.k30

    def dynamics(self, t, y, p):
        bound = y.central * y.receptor / (y.central + p.kmc * p.vc)
        return (
            -(p.k10 + p.k12) * y.central + p.k21 * y.peripheral - p.vm * bound,
            p.k12 * y.central - p.k21 * y.peripheral,
            -(p.vm - p.k30) * bound - p.k30 * y.receptor + p.k03,
        )

    def observe(self, t, y, p):
        drug, receptor = y.central / p.vc, y.receptor / p.vc
        return {
            "drug": dist.Normal(drug, p.sigma_drug * drug),
            "receptor": dist.Normal(receptor, p.sigma_receptor * receptor),
        }


def target_mediated_data():
    frame = table("r2comp")
    frame["DVID"] = frame["CMT"]
    return nlme.Dataset.from_frame(frame, outputs={"drug": 1, "receptor": 3}, dvid="DVID")


def target_mediated_params(estimates):
    e = estimates
    params = {name: math.exp(e[f"THETA{place}"]) for place, name in enumerate(TargetMediated.names, 1)}
    params |= {"sigma_drug": e["SIGMA(1,1)"] ** 0.5, "sigma_receptor": e["SIGMA(2,2)"] ** 0.5}
    return {**params, "omega": lower(e, "OMEGA", 1, 8)}


class OneClass(nlme.Model):
    """One compartment, a bolus: volume and elimination rate of one of the two hidden classes; proportional error."""

    states = ("central",)

    def __init__(self):
        super().__init__()
        self.v, self.k = nlme.LogNormal(70.0, omega=0.05), nlme.LogNormal(0.1, omega=0.05)
        self.omega = nlme.Omega("v", "k", structure="full")
        self.sigma = nlme.Positive(0.1)

    def compartments(self, p):
        return nlme.compartments.OneCompartment(clearance=p.k * p.v, volume=p.v)

    def observe(self, t, y, p):
        f = y.central / p.v
        return {"DV": dist.Normal(f, p.sigma * f)}


def classes_data():
    return nlme.Dataset.from_frame(table("pmixture"))


def classes_params(estimates, first):
    """Of the class whose THETAs and ETAs begin at ``first``."""
    e = estimates
    return {
        "v": math.exp(e[f"THETA{first}"]),
        "k": math.exp(e[f"THETA{first + 1}"]),
        "omega": lower(e, "OMEGA", first, first + 1),
        "sigma": e["SIGMA(1,1)"] ** 0.5,
    }
