"""What stands for the data of a fit that was loaded without them."""

from collections.abc import Sequence
from typing import Any, NoReturn

from nlme_torch.errors import FitError


class AbsentData:
    """The data of a saved fit, of which only what the fit itself has kept is known.

    Args:
        subjects: Ids of the subjects.
        n_observations: Number of observations.
        hash: SHA-256 of the data.
        folder: Where the fit was saved.
    """

    def __init__(self, subjects: Sequence[Any], n_observations: int, hash: str, folder: str) -> None:
        self.subjects, self.n_subjects, self.n_observations = tuple(subjects), len(subjects), n_observations
        self.hash, self._folder = hash, folder

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") or name == "_folder":  # asked for by copying and pickling
            raise AttributeError(name)
        raise FitError(
            f"this needs the data of the fit ({name}), and it was loaded without them: "
            f"nlme.load({self._folder!r}, model, data). Other subjects need fit.individualise(data)."
        )

    def __repr__(self) -> str:
        return f"data of {self.n_subjects} subjects, {self.n_observations} observations, which were not loaded"
