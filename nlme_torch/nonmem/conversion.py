"""A control stream as model, data set and method."""

import linecache
import os
import re
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlme_torch.errors import DataError, ModelError
from nlme_torch.model import Model
from nlme_torch.nonmem.reading import read
from nlme_torch.nonmem.writing import write
from nlme_torch.settings import check_values

if TYPE_CHECKING:
    import pandas as pd

    from nlme_torch.data import Dataset


@dataclass(frozen=True)
class Conversion:
    """What a control stream says.

    Attributes:
        model: The model at the initial (or final) values.
        data: The data set.
        method: The method of the last $ESTIMATION that estimates.
        source: Python code that gives the three: a file that may be kept and changed.
        notes: What differs, or was left out because it says nothing about model, data and method.
    """

    model: Model
    data: "Dataset"
    method: Any
    source: str
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        notes = "".join(f"\n  note: {note}" for note in self.notes)
        return f"{type(self.model).__name__}, {self.data.n_subjects} subjects, {self.method}{notes}"


def from_nonmem(
    path: str | Path, estimates: str | Path | None = None, data: "str | Path | pd.DataFrame | None" = None
) -> Conversion:
    r"""Read a NONMEM control stream.

    The objective function at its values is NONMEM's: of covariates the next value holds backwards, empty cells are 0,
    and Y is linearised in EPS. Whatever is not understood is an error that names the line; records that say nothing
    about model, data and method ($TABLE, $COVARIANCE) are named in ``notes``.

    Args:
        path: The control stream (``run1.mod``, ``run1.ctl``).
        estimates: An .ext file, whose final estimates then are the model's values; None for the initial values.
        data: The data file, where it lies elsewhere than $DATA says.

    Returns:
        Model, data set, method, Python code and notes.

    Raises:
        ModelError: A line of the stream cannot be converted; file and line are named.
        DataError: The data file is absent or wrong.

    Example:
        >>> import pathlib, tempfile
        >>> import nlme_torch as nlme
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "d.csv").write_text("ID,TIME,AMT,DV\n1,0,100,.\n1,2,0,8\n2,0,100,.\n2,3,0,6\n")
        >>> _ = (folder / "run1.mod").write_text('''
        ... $PROBLEM bolus
        ... $INPUT ID TIME AMT DV
        ... $DATA d.csv IGNORE=@
        ... $SUBROUTINES ADVAN1 TRANS2
        ... $PK
        ... CL = THETA(1)*EXP(ETA(1))
        ... V = THETA(2)
        ... S1 = V
        ... $ERROR
        ... Y = F*(1 + EPS(1))
        ... $THETA (0, 1) (0, 10)
        ... $OMEGA 0.1
        ... $SIGMA 0.04
        ... $ESTIMATION METHOD=1 INTER
        ... ''')
        >>> run = nlme.from_nonmem(folder / "run1.mod")
        >>> nlme.ofv(run.model, run.data, run.method)
        OFV 2.855333, -2LL 6.531087, by FOCEI

    References:
        Bauer (2019), NONMEM tutorial part I, doi:10.1002/psp4.12404.
    """
    import pandas as pd

    place = str | os.PathLike
    check_values("from_nonmem", ModelError, path=(path, place), estimates=(estimates, place | None))
    if not isinstance(data, pd.DataFrame):
        check_values("from_nonmem", DataError, data=(data, place | None))
    reading = read(path, estimates, data)
    written = write(reading)
    module = _module(written.source, reading.stream.path.stem)
    kept = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    model = kept[written.title]()
    return Conversion(model, module.data(reading.source_of_data), module.method, written.source, written.notes)


def _module(source: str, stem: str) -> types.ModuleType:
    """Run the code as a module whose lines messages can quote."""
    name = "converted_" + re.sub(r"\W", "_", stem)
    file = f"<{name}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    module = types.ModuleType(name)
    exec(compile(source, file, "exec"), module.__dict__)  # noqa: S102  (code that was written here)
    return module
