"""Damage to a saved fit is a FitError that says where, or it changes nothing; nothing that is killed loses a fit."""

import copy
import json
import pickle
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from support.mixed_linear import lines_data, simulate_lines
from support.small_models import Line

import nlme_torch as nlme
from nlme_torch.inference.fitting import saved_folder
from nlme_torch.model.density.density import Density

METHOD = nlme.FOCEI(optimiser=nlme.BFGS(iterations=4))


@pytest.fixture(scope="module")
def data():
    return lines_data(simulate_lines(subjects=4, seed=9)[0])


@pytest.fixture(scope="module")
def fit(data):
    return nlme.fit(Line(), data, METHOD, progress=False).with_standard_errors(kind="R")


@pytest.fixture
def folder(fit, tmp_path):
    return fit.save(tmp_path / "run")


def loads_the_same_or_says_what(folder, data, fit):
    """Load, and return the message of the FitError, empty where the fit is the same in every number."""
    try:
        again = nlme.load(folder, Line(), data)
    except nlme.FitError as error:
        assert folder.name in str(error)
        return str(error)
    assert str(again) == str(fit) and again.trace.equals(fit.trace)
    assert again.solver == fit.solver and again.seed == fit.seed and again.warnings == fit.warnings
    assert torch.equal(again.effects.draws, fit.effects.draws)
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), fit.model.parameters(), strict=True))
    return ""


def without_checksums(folder):
    """The same fit as an earlier version saved it."""
    path = folder / "fit.json"
    record = json.loads(path.read_text())
    del record["checksums"], record["log_likelihood"]["n_normal"], record["log_likelihood"]["problem"]
    path.write_text(json.dumps(record, indent=1))
    return folder


def test_one_flipped_bit_anywhere(folder, data, fit):
    rng = random.Random(1)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        told = 0
        for _ in range(25):
            place, bit = rng.randrange(len(content)), 1 << rng.randrange(8)
            path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            told += bool(loads_the_same_or_says_what(folder, data, fit))
        path.write_bytes(content)
        assert told >= 20, f"{path.name}: most bits matter"


def test_every_entry_of_the_record_is_covered(folder, data, fit):
    path = folder / "fit.json"
    record = json.loads(path.read_text())

    def changed(value):
        if isinstance(value, dict):
            for key in value:
                yield {k: v for k, v in value.items() if k != key}
                for other in changed(value[key]):
                    yield value | {key: other}
        elif isinstance(value, list):
            yield [*value, "more"]
        else:
            yield from ([], None, "else", 3)

    for number, other in enumerate(changed(record)):
        if other != record and number % 2 == 0:
            path.write_text(json.dumps(other))
            loads_the_same_or_says_what(folder, data, fit)
            with_same_solver = other.get("solver") != record["solver"]
            if "checksums" in other and not with_same_solver and other["checksums"] == record["checksums"]:
                assert loads_the_same_or_says_what(folder, data, fit)


def test_a_file_cut_at_any_length_or_removed(folder, data, fit):
    rng = random.Random(2)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for length in {0, 1, len(content) // 2, len(content) - 1, *rng.sample(range(len(content)), 6)}:
            path.write_bytes(content[:length])
            message = loads_the_same_or_says_what(folder, data, fit)
            assert path.name in message, "every byte is part of the checksum, or of the record"
        path.unlink()
        assert path.name in loads_the_same_or_says_what(folder, data, fit)
        path.write_bytes(content)
    assert loads_the_same_or_says_what(folder, data, fit) == ""


def test_a_fit_of_an_earlier_version_loads_and_its_damage_is_told(folder, data, fit):
    assert loads_the_same_or_says_what(without_checksums(folder), data, fit) == ""
    path = folder / "fit.json"
    record = json.loads(path.read_text())
    told = 0
    for name in record:
        for other in (
            {k: v for k, v in record.items() if k != name},
            record | {name: [1, {}]},
            record | {name: {"a": 1}},
        ):
            path.write_text(json.dumps(other))
            try:
                nlme.load(folder, Line(), data)
            except nlme.FitError:
                told += 1
    assert told > 30
    path.write_text(json.dumps(record))
    for table in ("likelihood.csv", "trace.csv"):
        content = (folder / table).read_text()
        for damage in ("", content[: len(content) // 3], content.replace("0", "x"), content.splitlines()[0]):
            (folder / table).write_text(damage)
            try:
                nlme.load(folder, Line(), data)
            except nlme.FitError as error:
                assert table in str(error)
        (folder / table).write_text(content)


def test_standard_errors_whose_columns_are_gone_are_told(folder, data):
    path = without_checksums(folder) / "fit.json"
    record = json.loads(path.read_text())
    for place, name in enumerate(record["uncertainty"]["columns"]):
        columns = [*record["uncertainty"]["columns"]]
        columns[place] = "x"
        path.write_text(json.dumps({**record, "uncertainty": {**record["uncertainty"], "columns": columns}}))
        with pytest.raises(nlme.FitError, match=f"no column '{name}'"):
            nlme.load(folder, Line(), data)


def test_a_wrong_setting_of_the_solver_is_told(folder, data):
    path = without_checksums(folder) / "fit.json"
    record = json.loads(path.read_text())
    for settings in ({"rtoll": 1e-6}, {"rtol": -1.0}):
        path.write_text(json.dumps(record | {"solver": {"name": "Tsit5", "settings": settings}}))
        with pytest.raises(nlme.FitError, match="fit.json: .*rtol"):
            nlme.load(folder, Line(), data)


# ------------------------------------------------------------------ interrupts and kills


@pytest.mark.parametrize("which", ["run", "new"])
@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_at_any_rename_keeps_a_fit(fit, folder, data, monkeypatch, which, after):
    real = Path.rename

    def interrupted(self, target):
        if self.name == which:
            monkeypatch.undo()
            if after:
                real(self, target)
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit.save(folder, overwrite=True)
    assert [path.name for path in folder.parent.iterdir()] == ["run"]
    assert loads_the_same_or_says_what(folder, data, fit) == ""


@pytest.mark.skipif(saved_folder.fcntl is None, reason="locks of folders")
@pytest.mark.parametrize("when", ["writing", "between the renames", "after the renames"])
def test_a_killed_save_loses_nothing_and_its_leftovers_go(folder, data, fit, when):
    script = f"""
        import importlib.util, os, signal
        from pathlib import Path
        specification = importlib.util.spec_from_file_location("saved_folder", {saved_folder.__file__!r})
        saved_folder = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(saved_folder)
        real = Path.rename
        def renamed(self, target):
            if self.name == "new" and {when == "between the renames"}:
                os.kill(os.getpid(), signal.SIGKILL)
            real(self, target)
            if self.name == "new":
                os.kill(os.getpid(), signal.SIGKILL)
        Path.rename = renamed
        with saved_folder.replacement(Path({str(folder)!r})) as new:
            for path in Path({str(folder)!r}).iterdir():
                (new / path.name).write_bytes(path.read_bytes())
            if {when == "writing"}:
                os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(folder.parent.iterdir())) == (2 if when != "between the renames" else 1)
    assert loads_the_same_or_says_what(folder, data, fit) == ""
    assert [path.name for path in folder.parent.iterdir()] == ["run"]


def test_a_save_under_way_is_left_alone(folder, data, fit):
    with saved_folder.replacement(folder) as new:
        fit.save(folder, overwrite=True)
        assert new.is_dir()
        shutil.copytree(folder, new, dirs_exist_ok=True)
    assert loads_the_same_or_says_what(folder, data, fit) == ""


# ------------------------------------------------------------------ other processes


def _log_joint(model, data):
    density = Density(model, data.batch(), nlme.Tsit5())
    return density.at().log_joint(torch.zeros(model.n_effects, 1, 1, data.n_subjects, dtype=torch.float64))


def _refit(fit):
    """What a worker process does: use what came, and return another fit."""
    return nlme.fit(fit.model, fit.data, nlme.Pooled(steps=2), progress=False)


@pytest.mark.parametrize(
    "model", [nlme.examples.TheophyllineClosedForm(), nlme.examples.TheophyllineFourNetworks(nlme.LowRank(2))]
)
def test_a_model_that_was_used_can_be_pickled_and_copied(model):
    data = nlme.examples.theophylline().subset([1, 2])
    value = _log_joint(model, data)
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(_log_joint(again, data), value)


def test_a_fit_comes_back_from_another_process_and_works(fit, data):
    assert str(fit) and len(fit.predictions), "what is derived from the fit has been computed"
    for again in (pickle.loads(pickle.dumps(fit)), copy.deepcopy(fit)):
        assert str(again) == str(fit) and again.predictions.equals(fit.predictions)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(_refit, fit).result()
    assert found.method == nlme.Pooled(steps=2) and found.predictions["PRED"].notna().all()
