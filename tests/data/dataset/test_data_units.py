"""Units of a data set: read by name, kept by what is made of it, printed, and written on the axes of pictures."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from support.fitted_models import quick_fit
from support.small_models import Line

import nlme_torch as nlme

UNITS = {"TIME": "h", "DV": "mg/L", "x": "kg"}


def dataset(**arguments):
    frame = pd.DataFrame({"ID": np.repeat([1, 2, 3], 3), "TIME": [0.0, 1.0, 2.0] * 3, "DV": np.arange(9.0)})
    return nlme.Dataset.from_frame(frame.assign(x=np.repeat([1.0, 2.0, 3.0], 3)), **arguments)


def test_units_are_kept_by_everything_that_is_made_of_a_data_set():
    data = dataset(units=UNITS)
    expected = {"time": "h", "DV": "mg/L", "x": "kg"}
    made = [
        data,
        data.subset([2]),
        data.with_times([5.0]),
        data.starting_at(-1.0),
        data.split(1, seed=0)[0],
        data.with_regimen(nlme.Regimen(1.0), [1.0]),
        nlme.simulate(Line(), data, seed=1),
        nlme.simulate(Line(), data, seed=1, subjects=5),
    ]
    assert all(one.units == expected for one in made)
    assert "units         time [h], DV [mg/L], x [kg]" in repr(data) and "mg/L" in data._repr_html_()
    assert dataset().units == {} and dataset() == data


def test_the_unit_of_a_value_column_is_that_of_all_outputs_read_from_it():
    frame = pd.DataFrame({"ID": 1, "TIME": [0.0, 0.0], "DV": [1.0, 2.0], "DVID": [1, 2]})
    data = nlme.Dataset.from_frame(frame, outputs={"PK": 1, "PD": 2}, units={"DV": "mg/L", "PD": "%"})
    assert data.units == {"PK": "mg/L", "PD": "%"}
    design = nlme.Dataset.from_regimen(nlme.Regimen(1.0), [1.0], units={"AMT": "mg", "time": "h"})
    assert design.units == {"AMT": "mg", "time": "h"}


def test_a_file_has_units_and_an_unknown_name_is_told(tmp_path):
    path = tmp_path / "table.csv"
    dataset().frame.to_csv(path, index=False)
    assert nlme.Dataset.from_csv(path, units=UNITS).units["time"] == "h"
    with pytest.raises(nlme.DataError, match=r"names 'DVV', which is nothing of the table.*Did you mean 'DV'"):
        dataset(units={"DVV": "mg/L"})


def test_pictures_write_them_on_their_axes_unless_a_label_says_otherwise():
    fit = quick_fit()
    units = {"Time": "h", "conc": "mg/L", "Wt": "kg"}
    data = nlme.Dataset.from_frame(fit.data.frame, id="Subject", outputs="conc", units=units)
    fit = replace(fit, data=data)
    figure = nlme.plots.fits(fit, subjects=[1])
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("time [h]", "conc [mg/L]")
    assert nlme.plots.effects(fit, versus="covariates", covariates=["Wt"]).axes[-1].get_xlabel() == "Wt [kg]"
    labelled = nlme.plots.goodness_of_fit(fit, labels={"time": "hours"}).axes
    assert [labelled[0].get_ylabel(), labelled[2].get_xlabel()] == ["observed conc [mg/L]", "hours"]
    plt.close("all")
