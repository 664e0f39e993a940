"""The one class that users subclass."""

import copy
import keyword
import zlib
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from nlme_torch.errors import ModelError
from nlme_torch.model.declare.natural import values_from_natural
from nlme_torch.model.declare.signatures import SIGNATURES, check_signature
from nlme_torch.model.declare.summary import ModelSummary, summary
from nlme_torch.model.declare.values import assign
from nlme_torch.model.dosing.dosing import Dosing
from nlme_torch.model.individual.individual import Covariates, Individual
from nlme_torch.model.networks.module_network import ModuleNetwork
from nlme_torch.model.networks.networks import Network
from nlme_torch.model.networks.random_weights import RandomWeights
from nlme_torch.model.parameters.individual_parameters import IndividualParameter, Latent, Occasions
from nlme_torch.model.parameters.named_modules import NamedModules
from nlme_torch.model.parameters.parameters import PopulationParameter, Real
from nlme_torch.model.random_effects.covariance import (
    Covariance,
    DiagonalCovariance,
    Fixed,
    FixedCovariance,
    LowRank,
    RepeatedCovariance,
    Scalar,
)
from nlme_torch.model.random_effects.random_effects import Omega, RandomEffectBlock
from nlme_torch.solve import Solver, choose_solver
from nlme_torch.solve.linear import Linear

if TYPE_CHECKING:
    from nlme_torch.data import Dataset

COMPONENTS = (PopulationParameter, IndividualParameter, Latent, Network, RandomWeights)


class _FinishAfterInit(type):
    """Runs ``_finish`` once the whole chain of ``__init__`` has run, so that mistakes show at once."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        model = super().__call__(*args, **kwargs)
        model._finish()
        return model


class Model(nn.Module, metaclass=_FinishAfterInit):
    r"""A nonlinear mixed-effects model: subclass it, declare parameters, write the dynamics of one subject.

    .. math:: y_{ij} \sim p(y \mid f(t_{ij}; \phi_i), \sigma), \quad \phi_i = h(\theta, \eta_i, c_i), \quad
              \eta_i \sim N(0, \Omega), \quad \dot x = g(t, x; \phi_i)

    Declare in ``__init__`` (after ``super().__init__()``): individual parameters (``LogNormal``, ``Normal``,
    ``LogitNormal``), population parameters (``Positive``, ``Real``, ``Bounded``), ``Latent`` effects, networks
    (``MLP`` or any ``nn.Module``), ``RandomWeights`` and ``Omega`` blocks. Every one is then an attribute of ``p``.

    Write ``dynamics`` or ``compartments`` (with ``states`` and ``initial``) or ``predict``, and ``observe``; optionally
    ``individual`` and ``dosing``. Doses and resets of the table act on the states. A covariate that changes within
    subjects is read in ``individual``, and what depends on it changes with it: between records by the covariate's
    rule, where ``"linear"`` moves the derived quantity itself in a straight line.
    All code is written for one subject with plain arithmetic; the library evaluates it for all subjects at once.

    Raises:
        ModelError: At construction: no observation, both or neither of dynamics and predict, name clashes,
            Omega blocks that name unknown parameters.

    Example:
        >>> import nlme_torch as nlme, pyro.distributions as dist
        >>> class Bolus(nlme.Model):
        ...     states = ("central",)
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.cl, self.v = nlme.LogNormal(1.0), nlme.LogNormal(10.0)
        ...         self.sigma = nlme.Positive(0.1)
        ...     def initial(self, p):
        ...         return (100.0,)
        ...     def dynamics(self, t, y, p):
        ...         return (-p.cl / p.v * y.central,)
        ...     def observe(self, t, y, p):
        ...         return {"conc": dist.Normal(y.central / p.v, p.sigma)}
        >>> [block.labels for block in Bolus().blocks]
        [('eta_cl', 'eta_v')]
    """

    states: ClassVar[tuple[str, ...]] = ()
    covariate_levels: dict[str, tuple[str, ...]] | None = None
    _finished: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._omega_declarations: dict[str, Omega] = {}
        self._covariances = NamedModules()
        self._blocks: tuple[RandomEffectBlock, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "_covariances" and _declares(value):
            self._check_declaration(name, value)
        if isinstance(value, Omega):
            self._omega_declarations[name] = value
            return
        if isinstance(value, Fixed):
            if isinstance(value.value, tuple):
                raise ModelError(f"{name!r} is a fixed matrix; as an attribute Fixed holds a number.")
            value = Real(value.value, fixed=True)
        elif isinstance(value, nn.Module) and not isinstance(value, COMPONENTS) and not name.startswith("_"):
            value = ModuleNetwork(value)
        super().__setattr__(name, value)

    # ------------------------------------------------------------------ what users write

    def individual(self, p: Individual, cov: Covariates) -> dict[str, Any]:
        """Derive further quantities from parameters and covariates; the returned names join (or replace) those of p."""
        return {}

    def initial(self, p: Individual) -> Sequence[Any]:
        """Return the states at a subject's first record, and at a reset (EVID 3, 4) by the p of its record."""
        return (0.0,) * len(self.states)

    def dynamics(self, t: Tensor, y: Any, p: Individual) -> Sequence[Any]:
        """Return dx/dt, one value per state, in the unit of the state per unit of time."""
        raise NotImplementedError

    def dosing(self, p: Individual) -> dict[str, Dosing]:
        """Return how doses enter: state name to ``nlme.Dosing`` with lag, bioavailability, rate and duration."""
        return {}

    def compartments(self, p: Individual) -> Linear:
        """Return linear compartments, such as ``nlme.compartments.OneCompartment``: ``dynamics`` in closed form."""
        raise NotImplementedError

    def predict(self, t: Tensor, p: Individual, cov: Covariates) -> Any:
        """Return the prediction at time t in closed form; ``observe`` gets it as y."""
        raise NotImplementedError

    def observe(self, t: Tensor, y: Any, p: Individual) -> dict[str, Any]:
        """Return the distribution of each outcome given the states (or the prediction) at time t."""
        raise NotImplementedError

    # ------------------------------------------------------------------ what the library asks

    @property
    def components(self) -> dict[str, nn.Module]:
        """The declared parameters, latents and networks by attribute name, in order of declaration."""
        return {name: module for name, module in self.named_children() if not name.startswith("_")}

    @property
    def blocks(self) -> tuple[RandomEffectBlock, ...]:
        """The blocks of random effects in the order of the effect vector."""
        return self._blocks

    @property
    def n_effects(self) -> int:
        """Number of random effects per subject."""
        return sum(block.size for block in self._blocks)

    @property
    def effect_labels(self) -> tuple[str, ...]:
        """One label per random effect."""
        return tuple(label for block in self._blocks for label in block.labels)

    @property
    def has_dynamics(self) -> bool:
        """Whether the model has states that move in time, by ``dynamics`` or ``compartments``."""
        return type(self).dynamics is not Model.dynamics or self.has_compartments

    @property
    def has_compartments(self) -> bool:
        """Whether the states are linear compartments, solved in closed form."""
        return type(self).compartments is not Model.compartments

    @property
    def has_network(self) -> bool:
        """Whether any part of the model is a network."""
        return any(isinstance(component, Network | RandomWeights) for component in self.components.values())

    @property
    def covariates(self) -> tuple[str, ...]:
        """Covariates that declared effects need."""
        names: dict[str, None] = {}
        for component in self.components.values():
            if isinstance(component, IndividualParameter):
                names.update(dict.fromkeys(component.covariates))
        return tuple(names)

    def state_tuple(self) -> Callable[..., Any]:
        """Return the named tuple class of the states."""
        return _named_states(self.states)

    def initialise(self, seed: int) -> "Model":
        """Draw new initial weights for all networks, in place.

        Args:
            seed: Any integer; the same seed gives the same weights.

        Returns:
            The model itself.
        """
        for name, component in self.components.items():
            network = component.network if isinstance(component, RandomWeights) else component
            if isinstance(network, Network):
                network.initialise(torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode())))
        return self

    def with_values(self, values: Mapping[str, Any]) -> "Model":
        """Return a copy of the model with other values of some parameters.

        Args:
            values: Name to value on the natural scale, as ``fit.parameters`` has them: ``cl``, ``cl_SEX[male]``,
                ``omega_cl,v``; also the name of an Omega block to a matrix, or of a network to its weights.

        Raises:
            FitError: A name is unknown, a value is out of its range, or Omega is not positive definite.

        Example:
            >>> import nlme_torch as nlme
            >>> model = nlme.examples.TheophyllineClosedForm().with_values({"cl": 2.8, "omega_cl": 0.1})
            >>> round(model.cl.value.item(), 3)
            2.8
        """
        changed = copy.deepcopy(self)
        assign(changed, values_from_natural(changed, values))
        return changed

    def program(self, data: "Dataset", solver: Solver | str | None = None) -> Callable[[], None]:
        """Return the model with its data as a Pyro program; see :func:`nlme_torch.model.pyro.program.program`."""
        from nlme_torch.model.pyro.program import program

        return program(self, data, choose_solver(solver))

    def summary(self, data: "Dataset | None" = None) -> ModelSummary:
        """Return states, parameters, effects, shapes and priors as a printable table."""
        written = [method for method in SIGNATURES if getattr(type(self), method) is not getattr(Model, method)]
        return summary(self, written, data)

    def __repr__(self) -> str:
        return str(self.summary()) if self._finished else super().__repr__()

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    # ------------------------------------------------------------------ construction

    def _check_declaration(self, name: str, value: Any) -> None:
        if "_omega_declarations" not in self.__dict__:
            raise ModelError(f"call super().__init__() before assigning {name!r}.")
        if self._finished:
            raise ModelError(f"{name!r} is assigned to a finished model; declare it in __init__.")
        if name.startswith("_"):
            raise ModelError(f"{name!r}: names of parameters and networks may not begin with an underscore; rename it.")
        if isinstance(value, nn.Parameter):
            raise ModelError(f"{name!r} is an nn.Parameter; declare it as nlme.Real, nlme.Positive or nlme.Bounded.")
        if isinstance(value, list | tuple | dict | nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict):
            raise ModelError(f"{name!r} is a collection; assign each parameter or network to an attribute of its own.")
        if hasattr(Model, name):
            raise ModelError(f"{name!r} is a name that Model itself uses; choose another.")
        if name in self.states:
            raise ModelError(f"{name!r} is both a state and a parameter; rename one.")
        if name in self._modules or name in self._omega_declarations:
            raise ModelError(f"{name!r} is declared twice.")

    def _finish(self) -> None:
        self._check()
        self.initialise(0)
        self._build_blocks()
        self._finished = True

    def _check(self) -> None:
        owner = type(self).__name__
        if type(self).observe is Model.observe:
            raise ModelError(f"{owner} has no observe(t, y, p): say how each outcome is distributed.")
        ways = ("dynamics", "compartments", "predict")
        written = [name for name in ways if getattr(type(self), name) is not getattr(Model, name)]
        if len(written) != 1:
            what = f"both {' and '.join(written)}" if written else "neither dynamics nor compartments nor predict"
            raise ModelError(f"{owner} has {what}; write exactly one.")
        if not isinstance(self.states, tuple):
            raise ModelError(f"{owner}: states must be a tuple of names such as ('central',), got {self.states!r}.")
        if self.has_dynamics and not self.states:
            raise ModelError(f"{owner} has {written[0]} but no states; set states = ('central', ...) on the class.")
        if len(set(self.states)) < len(self.states):
            raise ModelError(f"{owner} names a state twice: {self.states}.")
        for name in self.states:
            if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
                raise ModelError(f"{owner}: state {name!r} is not a valid name; use letters, digits and underscores.")
        for method in SIGNATURES:
            check_signature(self, Model, method)

    def _build_blocks(self) -> None:
        components = self.components
        individual = {n: c for n, c in components.items() if isinstance(c, IndividualParameter)}
        blocks: list[RandomEffectBlock] = []

        def add(
            name: str, labels: Sequence[str], owners: Sequence[str], kind: Any, covariance: Covariance | None
        ) -> None:
            start = blocks[-1].stop if blocks else 0
            if covariance is not None:
                self._covariances[name] = covariance
            blocks.append(RandomEffectBlock(name, tuple(labels), start, tuple(owners), kind, covariance))

        within = {name: omega for name, omega in self._omega_declarations.items() if not omega.occasions}
        between = {name: omega for name, omega in self._omega_declarations.items() if omega.occasions}
        _check_omegas(within, individual, {name: c.omega for name, c in individual.items()})
        for name, declaration in within.items():
            covariance = declaration.build(_variances(individual, declaration.parameters))
            add(name, [f"eta_{p}" for p in declaration.parameters], declaration.parameters, "individual", covariance)
        grouped = {parameter for declaration in within.values() for parameter in declaration.parameters}
        alone = [name for name in individual if name not in grouped]
        estimated = [name for name in alone if not isinstance(individual[name].omega, Fixed)]
        kept = [name for name in alone if isinstance(individual[name].omega, Fixed)]
        if estimated:
            covariance = DiagonalCovariance(_variances(individual, estimated))
            add("individual", [f"eta_{name}" for name in estimated], estimated, "individual", covariance)
        if kept:
            covariance = FixedCovariance(torch.diag(_variances(individual, kept)))
            add("individual_fixed", [f"eta_{name}" for name in kept], kept, "individual", covariance)
        for name, component in components.items():
            if isinstance(component, Latent):
                labels = [name] if component.size == 1 else [f"{name}[{k}]" for k in range(component.size)]
                add(name, labels, [name], "standard", None)
            elif isinstance(component, RandomWeights):
                if isinstance(component.omega, LowRank):
                    add(name, [f"{name}.z[{k}]" for k in range(component.omega.rank)], [name], "standard", None)
                else:
                    labels = [f"{name}.{weight}" for weight in component.network.weight_names()]
                    add(name, labels, [name], "weights", component.omega.build(component.n_effects))
        varying = {name: c.occasions for name, c in individual.items() if c.occasions is not None}
        _check_omegas(between, varying, {name: occasions.omega for name, occasions in varying.items()})
        for name, declaration in between.items():
            owners = declaration.parameters
            counts = {parameter: varying[parameter].count for parameter in owners}
            if len(set(counts.values())) > 1:
                raise ModelError(f"Omega {name!r} joins parameters of different numbers of occasions: {counts}.")
            count = counts[owners[0]]
            covariance = RepeatedCovariance(declaration.build(_variances(varying, owners)), count)
            labels = [f"eta_{p}_occasion{number}" for number in range(1, count + 1) for p in owners]
            add(name, labels, owners, "occasion", covariance)
        joined = {parameter for declaration in between.values() for parameter in declaration.parameters}
        for name, occasions in varying.items():
            if name not in joined:
                variance = occasions.omega
                structure = variance if isinstance(variance, Fixed) else Scalar(variance)
                labels = [f"eta_{name}_occasion{number}" for number in range(1, occasions.count + 1)]
                add(f"{name}_occasion", labels, [name], "occasion", structure.build(occasions.count))
        self._blocks = tuple(blocks)


@cache
def _named_states(states: tuple[str, ...]) -> Callable[..., Any]:
    """The named tuple class, which no model holds: it could not be pickled, having no name in a module."""
    return namedtuple("States", states)


def _declares(value: Any) -> bool:
    """Whether a value is, or holds, something that a model must know of."""
    if isinstance(value, list | tuple):
        return any(_declares(entry) for entry in value)
    if isinstance(value, dict):
        return any(_declares(entry) for entry in value.values())
    return isinstance(value, Fixed | Omega | nn.Module | nn.Parameter)


def _check_omegas(declarations: Mapping[str, Omega], owners: Mapping[str, Any], omegas: Mapping[str, Any]) -> None:
    """Refuse blocks that name what has no such effects, or name it twice, or what is fixed by itself."""
    grouped: set[str] = set()
    for name, declaration in declarations.items():
        kind = "individual parameter with occasions=Occasions(...)" if declaration.occasions else "individual parameter"
        for parameter in declaration.parameters:
            if parameter not in owners:
                raise ModelError(
                    f"Omega {name!r} names {parameter!r}, which is not an {kind}; there are "
                    f"{', '.join(map(repr, owners)) or 'none'}."
                )
            if parameter in grouped:
                raise ModelError(f"{parameter!r} stands in two Omega blocks; name it in one of them.")
            if isinstance(omegas[parameter], Fixed):
                raise ModelError(
                    f"{parameter!r} has a fixed omega and cannot stand in Omega {name!r}; fix the whole block with "
                    "structure=Fixed(variance), single entries with structure=Full([[Fixed(0.1)], [0.01, 0.2]]), or "
                    "leave it out."
                )
        grouped.update(declaration.parameters)


def _variances(owners: Mapping[str, IndividualParameter | Occasions], names: Sequence[str]) -> Tensor:
    omegas = [owners[name].omega for name in names]
    return torch.tensor(
        [float(omega.value if isinstance(omega, Fixed) else omega) for omega in omegas], dtype=torch.float64
    )
