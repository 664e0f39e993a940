"""Rows have one name in all messages: the line of the file, or the label in the index of the data frame."""

import pandas as pd
import pytest
from support.small_models import Line

import nlme_torch as nlme

FILE = """# exported
ID,TIME,DV,WT

1,0,1.0,70
1,1,two,70
# a remark
2,0,3.0,
2,1,4.0,60
"""


def written(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def test_messages_about_a_file_name_its_lines(tmp_path):
    path = written(tmp_path, FILE)
    with pytest.raises(nlme.DataError, match=r"lines are those of the file(.|\n)*line 5, subject 1, column DV"):
        nlme.Dataset.from_csv(path, ignore="#", covariates=["WT"])
    with pytest.raises(nlme.DataError, match="line 7, subject 2, column WT"):
        nlme.Dataset.from_csv(written(tmp_path, FILE.replace("two", "2")), ignore="#", covariates=["WT"])
    with pytest.raises(nlme.DataError, match="line 8, subject 2, column DV"):
        text = FILE.replace("two", "2").replace("4.0", "four")
        nlme.Dataset.from_csv(written(tmp_path, text), ignore=["#", "TIME.EQ.0"])


def test_warnings_and_descriptions_of_a_part_of_the_file_name_the_same_lines(tmp_path):
    text = FILE.replace("two", "2").replace("2,1,4.0,60", "2,0,4.0,60").replace("3.0,", "3.0,60")
    data = nlme.Dataset.from_csv(written(tmp_path, text), ignore="#")
    assert data.check()["row"].tolist() == data.subset([2]).check()["row"].tolist() == [8]
    assert "line 8, subject 2" in data.subset([2]).warnings[0]


def test_messages_about_a_frame_name_its_index():
    frame = pd.DataFrame({"ID": [1, 1, 2], "TIME": [0.0, 1.0, 0.0], "DV": [1.0, 2.0, "x"]}, index=["a", "b", "c"])
    with pytest.raises(nlme.DataError, match=r"the index of the data frame(.|\n)*row 'c', subject 2, column DV"):
        nlme.Dataset.from_frame(frame)
    assert set(nlme.check_frame(frame)["row"]) == {"c"}
    with pytest.raises(nlme.DataError, match=r"counted from 0(.|\n)*row 2, subject 2, column DV"):
        nlme.Dataset.from_frame(frame.set_axis([7, 7, 7]))


def test_a_model_names_the_same_line(tmp_path):
    class Proportional(Line):
        def observe(self, t, y, p):
            return {"DV": nlme.observation.Proportional(0.0 * y, p.sigma)}

    path = written(tmp_path, FILE.replace("two", "2").replace(",WT", ",x").replace("3.0,", "3.0,60"))
    data = nlme.Dataset.from_csv(path, ignore="#")
    with pytest.raises(nlme.ModelError, match=r"line 4 \(lines are those of the file\)"):
        nlme.fit(Proportional(), data, nlme.FO(), progress=False)
