"""The README says what is true: its commands are those of CI, its example runs."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_ci_runs_the_readme_test_line():
    lines = [line.strip() for line in README.splitlines() if line.strip().endswith("-m pytest -n 2")]
    assert len(lines) == 1
    assert lines[0] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_example_is_short_and_runs(monkeypatch):
    import nlme_torch as nlme

    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 25
    short = nlme.SAEM(schedule=nlme.StepSchedule(burn_in=2, exploration=3, smoothing=2), chains=20)
    example = example.replace("nlme.SAEM()", "short").replace("seed=1)", "seed=1, progress=False)")
    namespace = {"short": short}
    exec(example, namespace)
    assert namespace["fit"].data.n_subjects == 12
