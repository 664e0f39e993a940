"""Inputs of a network are called what the model's code calls them."""

import pandas as pd
import pyro.distributions as dist

import nlme_torch as nlme
from nlme_torch.diagnostics.network_calls import network_calls


class Rates(nlme.Model):
    states = ("amount",)

    def __init__(self):
        super().__init__()
        self.v, self.sigma, self.net = nlme.LogNormal(2.0), nlme.Positive(0.1), nlme.MLP(4, 2, 1)

    def initial(self, p):
        return (1.0,)

    def dynamics(self, t, y, p):
        concentration = y.amount / p.v
        return (-p.net(concentration / 10, t / 24, y.amount,
                       (y.amount - 1) * p.v),)  # fmt: skip

    def observe(self, t, y, p):
        return {"DV": dist.Normal(y.amount, p.sigma)}


def test_the_labels_are_the_names_or_the_text_of_the_call():
    frame = pd.DataFrame({"ID": [1, 1, 2, 2], "TIME": [0.0, 1.0, 0.0, 2.0], "DV": 1.0})
    density = nlme.model.Density(Rates(), nlme.Dataset.from_frame(frame).batch(), nlme.RK4(4))
    conditional = density.at()
    calls = network_calls(conditional, "net", conditional.mean.new_zeros(1, 1, 2))
    assert calls.labels == ("concentration / 10", "time / 24", "amount", "(amount - 1) * v")
