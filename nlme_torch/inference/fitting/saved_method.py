"""Estimation methods on disk: the type and the settings of each, and of what their settings are made of."""

import dataclasses
from typing import Any

from nlme_torch.errors import NLMEError
from nlme_torch.inference.effects.moves import Moves
from nlme_torch.inference.estimates.estimation import FitMethod, UnrepeatableMethod
from nlme_torch.inference.estimates.staged import Staged
from nlme_torch.inference.fitting.saved_files import Entries, damaged
from nlme_torch.inference.foce.fo import FO
from nlme_torch.inference.foce.foce import FOCE
from nlme_torch.inference.foce.focei import FOCEI
from nlme_torch.inference.foce.laplace import Laplace
from nlme_torch.inference.foce.quadrature import Quadrature
from nlme_torch.inference.foce.rescue import Rescue
from nlme_torch.inference.optimise.minimisers import BFGS, LBFGS, Adam
from nlme_torch.inference.optimise.trust_region import TrustRegion
from nlme_torch.inference.pooled.pooled import Pooled
from nlme_torch.inference.saem.certificate import Certification
from nlme_torch.inference.saem.race import Race
from nlme_torch.inference.saem.saem import SAEM
from nlme_torch.inference.saem.schedule import StepSchedule

METHODS: tuple[type[Any], ...] = (FO, FOCE, FOCEI, Laplace, Quadrature, Pooled, SAEM, Staged)
SETTINGS: tuple[type[Any], ...] = (Adam, BFGS, LBFGS, TrustRegion, Rescue, StepSchedule, Moves, Race, Certification)
KINDS = {kind.__name__: kind for kind in (*METHODS, *SETTINGS)}


def packed_method(method: object) -> dict[str, Any] | None:
    """Return a method as JSON holds it; None for one that is not of this package, or is made of such things.

    Args:
        method: The method, or None.

    Example:
        >>> import nlme_torch as nlme
        >>> packed_method(nlme.Pooled(steps=5))
        {'type': 'Pooled', 'settings': {'steps': 5, 'learning_rate': 0.05, 'hold_out': 0.0, 'patience': 100}}
    """
    try:
        return _packed(method)
    except TypeError:
        return None


def _packed(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return [_packed(one) for one in value]
    kind = type(value)
    if KINDS.get(kind.__name__) is not kind:
        raise TypeError(kind.__name__)
    return {
        "type": kind.__name__,
        "settings": {f.name: _packed(getattr(value, f.name)) for f in dataclasses.fields(kind) if f.init},
    }


def unpacked_method(record: Entries) -> FitMethod:
    """Return the method of a saved fit.

    Args:
        record: What ``fit.json`` holds; of fits that earlier versions saved only the method's text is known.

    Raises:
        FitError: The file is damaged.
    """
    text = record.take("method", str)
    if record.values.get("method_settings") is None:
        return UnrepeatableMethod(text)
    return _unpacked(record.part("method_settings"), METHODS)


def unpacked_settings(record: Entries) -> FitMethod | None:
    """Return the method that gave a saved likelihood; None where its name alone was saved.

    Args:
        record: What ``fit.json`` holds of the likelihood.

    Raises:
        FitError: The file is damaged.
    """
    return None if record.values.get("settings") is None else _unpacked(record.part("settings"), METHODS)


def _unpacked(stored: Entries, kinds: tuple[type[Any], ...]) -> Any:
    name = stored.take("type", str)
    kind = KINDS.get(name)
    if kind not in kinds:
        raise damaged(stored.folder, f"{stored.where}: the type {name!r} is unknown")
    settings = stored.part("settings")
    values: dict[str, Any] = {}
    for key, value in settings.values.items():
        if isinstance(value, dict):
            value = _unpacked(settings.part(key), (*METHODS, *SETTINGS))
        elif isinstance(value, list):
            value = [_unpacked(Entries(stored.folder, f"{settings.where}: {key}", one), METHODS) for one in value]
        values[key] = value
    try:
        return Staged(*values["methods"]) if kind is Staged else kind(**values)
    except (NLMEError, TypeError, KeyError) as error:
        raise damaged(stored.folder, f"{settings.where} of {name}: {error}".rstrip(".")) from error
