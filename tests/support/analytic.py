"""Closed-form oracles: models whose marginal likelihood, posterior and moments are known exactly."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DOUBLE = torch.float64


def random_covariance(size: int, generator: torch.Generator, *, spread: float = 1.0) -> Tensor:
    """A well-conditioned random covariance matrix, (size, size)."""
    root = torch.randn(size, size, generator=generator, dtype=DOUBLE) / math.sqrt(size)
    return spread**2 * (root @ root.mT + 0.5 * torch.eye(size, dtype=DOUBLE))


def gaussian_log_density(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """log N(x; mean, covariance) for x (component, *batch), mean (component,), one covariance."""
    difference = x - mean.reshape(-1, *(1,) * (x.ndim - 1))
    solved = torch.linalg.solve(covariance, difference.reshape(len(mean), -1)).reshape(x.shape)
    constant = len(mean) * math.log(2 * math.pi) + torch.logdet(covariance)
    return -0.5 * ((difference * solved).sum(0) + constant)


@dataclass(frozen=True)
class LinearGaussian:
    """y_i = A_i eta_i + e_i, e ~ N(0, sigma^2 I), eta ~ N(0, Omega): everything is Gaussian."""

    design: Tensor  # (record, effect, subject)
    data: Tensor  # (record, subject)
    omega: Tensor  # (effect, effect)
    sigma: float

    @staticmethod
    def simulate(effect: int, record: int, subject: int, seed: int, sigma: float = 0.5) -> "LinearGaussian":
        generator = torch.Generator().manual_seed(seed)
        omega = random_covariance(effect, generator)
        design = torch.randn(record, effect, subject, generator=generator, dtype=DOUBLE)
        eta = torch.linalg.cholesky(omega) @ torch.randn(effect, subject, generator=generator, dtype=DOUBLE)
        noise = sigma * torch.randn(record, subject, generator=generator, dtype=DOUBLE)
        return LinearGaussian(design, torch.einsum("res,es->rs", design, eta) + noise, omega, sigma)

    def log_joint(self, effects: Tensor) -> Tensor:
        prediction = torch.einsum("res,e...s->r...s", self.design, effects)
        residual = self.data.reshape(-1, *(1,) * (effects.ndim - 2), self.data.shape[-1]) - prediction
        record = len(self.data)
        likelihood = -0.5 * residual.pow(2).sum(0) / self.sigma**2 - record * (
            math.log(self.sigma) + 0.5 * math.log(2 * math.pi)
        )
        return likelihood + gaussian_log_density(effects, torch.zeros(len(self.omega), dtype=DOUBLE), self.omega)

    def log_marginal(self) -> Tensor:
        """(subject,): y_i ~ N(0, A Omega A' + sigma^2 I)."""
        values = []
        for subject in range(self.data.shape[-1]):
            design = self.design[..., subject]
            covariance = design @ self.omega @ design.mT + self.sigma**2 * torch.eye(len(self.data), dtype=DOUBLE)
            mean = torch.zeros(len(self.data), dtype=DOUBLE)
            values.append(gaussian_log_density(self.data[:, subject], mean, covariance))
        return torch.stack(values)

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean (effect, subject) and covariance (effect, effect, subject)."""
        means, covariances = [], []
        for subject in range(self.data.shape[-1]):
            design = self.design[..., subject]
            precision = design.mT @ design / self.sigma**2 + torch.linalg.inv(self.omega)
            covariance = torch.linalg.inv(precision)
            means.append(covariance @ design.mT @ self.data[:, subject] / self.sigma**2)
            covariances.append(covariance)
        return torch.stack(means, -1), torch.stack(covariances, -1)


@dataclass(frozen=True)
class Warped:
    """A skewed target with unit-Jacobian warp of z ~ N(0, I) and a known normalising constant per subject.

    x_1 = z_1; x_j = s_j (z_j + bend (z_1^2 - 1)): curved and skewed; ``funnel`` rescales alternate components by
    exp(+-funnel z_1), which leaves the volume unchanged when the number of them is even.
    """

    scales: Tensor  # (effect, subject)
    log_constant: Tensor  # (subject,)
    bend: float = 0.6
    funnel: float = 0.0

    def _signs(self) -> Tensor:
        effect = len(self.scales)
        signs = torch.zeros(effect, dtype=DOUBLE)
        signs[1::2], signs[2::2] = 1.0, -1.0
        if effect % 2 == 0:
            signs[-1] = 0.0
        return signs

    def _shaped(self, vector: Tensor, ndim: int) -> Tensor:
        return vector.reshape(-1, *(1,) * (ndim - 1))

    def forward(self, z: Tensor) -> Tensor:
        first = z[:1]
        stretched = z * torch.exp(self.funnel * self._shaped(self._signs(), z.ndim) * first)
        bent = stretched + self.bend * (first.pow(2) - 1)
        scales = self.scales.reshape(len(z), *(1,) * (z.ndim - 2), -1)
        return scales * torch.cat([first, bent[1:]])

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        return self.forward(
            torch.randn(len(self.scales), count, self.scales.shape[-1], generator=generator, dtype=DOUBLE)
        )

    def log_joint(self, x: Tensor) -> Tensor:
        x = x / self.scales.reshape(len(x), *(1,) * (x.ndim - 2), -1)
        first = x[:1]
        rest = (x[1:] - self.bend * (first.pow(2) - 1)) * torch.exp(
            -self.funnel * self._shaped(self._signs()[1:], x.ndim) * first
        )
        square = first[0].pow(2) + rest.pow(2).sum(0)
        log_density = -0.5 * square - 0.5 * len(x) * math.log(2 * math.pi) - self.scales.log().sum(0)
        return self.log_constant + log_density


@dataclass(frozen=True)
class GaussianMixture:
    """exp(log_constant) x a mixture of Gaussians, the same components for every subject up to a shift."""

    means: Tensor  # (component, effect)
    covariances: Tensor  # (component, effect, effect)
    weights: Tensor  # (component,)
    log_constant: Tensor  # (subject,)

    def log_joint(self, x: Tensor) -> Tensor:
        parts = [
            torch.log(w) + gaussian_log_density(x, m, c)
            for w, m, c in zip(self.weights, self.means, self.covariances, strict=True)
        ]
        return self.log_constant + torch.logsumexp(torch.stack(parts), 0)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        subject, effect = len(self.log_constant), self.means.shape[1]
        chosen = torch.multinomial(self.weights, count * subject, replacement=True, generator=generator)
        noise = torch.randn(count * subject, effect, generator=generator, dtype=DOUBLE)
        roots = torch.linalg.cholesky(self.covariances)
        draws = self.means[chosen] + torch.einsum("nij,nj->ni", roots[chosen], noise)
        return draws.mT.reshape(effect, count, subject)


@dataclass(frozen=True)
class RotatedBlocks:
    """eta ~ N(0, I), turned by a random rotation into independent pairs, each seen through a non-linear function.

    The first ``networks`` pairs are one-unit networks y_t = u tanh(v t) (two modes each, of mirrored sign); the others
    are banana-shaped, y = u + bend (v^2 - 1). Every pair's marginal likelihood is a two-dimensional integral, done by
    brute force.
    """

    rotation: Tensor  # (effect, effect)
    data: Tensor  # (pair, record, subject)
    networks: int
    sigma: float = 0.3
    bend: float = 0.7

    @staticmethod
    def simulate(effect: int, subject: int, networks: int, seed: int, records: int = 5) -> "RotatedBlocks":
        generator = torch.Generator().manual_seed(seed)
        rotation, _ = torch.linalg.qr(torch.randn(effect, effect, generator=generator, dtype=DOUBLE))
        empty = RotatedBlocks(rotation, torch.zeros(effect // 2, records, subject, dtype=DOUBLE), networks)
        truth = torch.randn(effect, subject, generator=generator, dtype=DOUBLE)
        noise = torch.randn(effect // 2, records, subject, generator=generator, dtype=DOUBLE)
        return RotatedBlocks(rotation, empty._predict(truth) + empty.sigma * noise, networks)

    def _predict(self, pairs: Tensor) -> Tensor:
        """(2 pair, *batch) -> (pair, record, *batch)."""
        u, v = pairs.unflatten(0, (-1, 2)).unbind(1)
        times = torch.linspace(0.2, 2.0, self.data.shape[1], dtype=DOUBLE).reshape(-1, *(1,) * (u.ndim - 1))
        u, v = u[:, None], v[:, None]
        network = u * torch.tanh(2.0 * v * times)
        banana = (u + self.bend * (v.pow(2) - 1)).expand_as(network)
        kind = (torch.arange(len(u)) < self.networks).reshape(-1, *(1,) * (network.ndim - 1))
        return torch.where(kind, network, banana)

    def _pair_log_joint(self, pairs: Tensor) -> Tensor:
        """(2 pair, *batch, subject) -> (pair, *batch, subject)."""
        data = self.data.reshape(*self.data.shape[:2], *(1,) * (pairs.ndim - 2), self.data.shape[-1])
        square = ((data - self._predict(pairs)) / self.sigma).pow(2).sum(1)
        constant = self.data.shape[1] * (math.log(self.sigma) + 0.5 * math.log(2 * math.pi)) + math.log(2 * math.pi)
        return -0.5 * square - 0.5 * pairs.unflatten(0, (-1, 2)).pow(2).sum(1) - constant

    def log_joint(self, effects: Tensor) -> Tensor:
        return self._pair_log_joint(torch.einsum("ij,j...->i...", self.rotation, effects)).sum(0)

    def log_marginal(self, grid: int = 481, reach: float = 6.5) -> Tensor:
        """(subject,), by a Cartesian sum, spectrally accurate for these smooth decaying integrands."""
        axis = torch.linspace(-reach, reach, grid, dtype=DOUBLE)
        points = torch.cartesian_prod(axis, axis).mT[..., None].repeat(len(self.data), 1, 1)
        values = []
        for subject in range(self.data.shape[-1]):
            one = RotatedBlocks(self.rotation, self.data[..., [subject]], self.networks, self.sigma, self.bend)
            values.append(torch.logsumexp(one._pair_log_joint(points), 1).sum())
        return torch.stack(values) + len(self.data) * 2 * math.log((axis[1] - axis[0]).item())


def network_target(subjects=4, effects=28, records=11, seed=0):
    """Four tiny tanh networks with N(0, I) weights, added up and seen with noise: many modes, like theophylline's."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.linspace(0.0, 1.0, records, dtype=DOUBLE)

    def predict(weights):  # (28, *batch) -> (record, *batch)
        out = 0.0
        for part in weights.unflatten(0, (effects // 7, 7)):
            t = times.reshape(-1, *(1,) * (weights.ndim - 1))
            for a, b, c in ((0, 1, 4), (2, 3, 5)):
                out = out + part[c] * torch.tanh(3 * part[a] * t + part[b])
            out = out + part[6]
        return out

    truth = torch.randn(effects, subjects, generator=generator, dtype=DOUBLE)
    data = predict(truth) + 0.3 * torch.randn(records, subjects, generator=generator, dtype=DOUBLE)

    def log_joint(weights):
        target = data.reshape(records, *(1,) * (weights.ndim - 2), subjects)
        return -0.5 * ((target - predict(weights)) / 0.3).pow(2).sum(0) - 0.5 * weights.pow(2).sum(0)

    return log_joint
