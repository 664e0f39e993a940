"""The chain of neutrophils against published equations in numpy, and what the feedback network cannot help being."""

import numpy as np
import torch

import nlme_torch as nlme
from nlme_torch.model.density.density import Density
from nlme_torch.model.individual.individual import Individual

DOUBLE = torch.float64


def test_the_truths_change_is_the_published_one_at_any_state():
    states = torch.rand(8, 6, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)) + 0.05
    model = nlme.examples.Myelosuppression()
    values = {"mtt": 88.7, "slope": 8.58, "gamma": 0.161, "circ0": 5.05}
    p = Individual({name: torch.full((6,), value, dtype=DOUBLE) for name, value in values.items()})
    found = model.dynamics(torch.zeros(6, dtype=DOUBLE), model.state_tuple()(*states), p)
    c, second, third, *cells = states.numpy()
    prol, t1, t2, t3, circ = (5.05 * cell for cell in cells)  # 10^9 cells/L
    ktr = 4 / 88.7
    expected = [
        -(1.06 + 1.26 + 5.2) * c + 1.51 * second + 0.084 * third,
        1.06 * c - 1.51 * second,
        1.26 * c - 0.084 * third,
        ktr * prol * (1 - 8.58 * c / 7.4) * (5.05 / circ) ** 0.161 - ktr * prol,
        ktr * prol - ktr * t1,
        ktr * t1 - ktr * t2,
        ktr * t2 - ktr * t3,
        ktr * t3 - ktr * circ,
    ]
    for index, (own, published) in enumerate(zip(found, expected, strict=True)):
        scale = 1.0 if index < 3 else 5.05
        np.testing.assert_allclose(own.numpy() * scale, published, rtol=1e-12, err_msg=model.states[index])


def test_the_design_gives_two_cycles_of_two_doses_in_turn():
    frame = nlme.examples.myelosuppression_design(4).frame
    doses = frame[frame.AMT > 0]
    assert doses.AMT.tolist() == [225.0, 150.0, 225.0, 150.0]
    assert doses.ADDL.eq(1).all() and doses.II.eq(21 * 24).all()
    assert frame[frame.AMT == 0].groupby("ID").TIME.apply(list).iloc[0][-1] == 42 * 24


def test_the_feedback_is_positive_decreasing_and_one_at_rest_for_any_weights():
    model = nlme.examples.FeedbackNetwork()
    cells = torch.logspace(-3, 1, 50, dtype=DOUBLE)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        weights = 2 * torch.randn(len(model.network.weights), 1, dtype=DOUBLE, generator=generator)
        p = Individual({"network": model.network.bind(weights)})
        rate = model.feedback(cells, p)
        assert float(rate.min()) > 0 and bool((rate.diff() < 0).all())
        assert float(model.feedback(torch.ones(1, dtype=DOUBLE), p)) == 1.0


def test_counts_fall_and_return_and_the_network_sees_its_gradient():
    data, model = nlme.examples.myelosuppression_data(4, seed=1), nlme.examples.FeedbackNetwork()
    frame = data.frame[data.frame.AMT == 0]
    mean = frame.groupby("TIME").logANC.mean()
    assert mean.iloc[0] - mean.loc[7 * 24.0] > 0.7 and abs(mean.loc[21 * 24.0] - mean.iloc[0]) < 0.7
    conditional = Density(model, data.batch(), nlme.Auto()).at()
    eta = conditional.sample(1, torch.Generator().manual_seed(0)).detach().requires_grad_()
    joint = conditional.log_joint(eta)
    (gradient,) = torch.autograd.grad(joint.sum(), eta)
    assert bool(torch.isfinite(joint).all()) and bool((gradient != 0).all())
    # without drug nothing moves, whatever the network
    undosed = data.with_regimen(nlme.Regimen(1e-12), [0.0, 100.0, 1000.0])
    with torch.no_grad():
        still = Density(model, undosed.batch(), nlme.Auto()).at().observe(eta.detach())[0]["logANC"].mean
    assert float(still.diff(dim=0).abs().max()) < 1e-8
