"""Question: the same as mutants.py, where the processor is busy: tests are called inside forks of one loaded process.

    nice python benchmarks/mutants_inside.py 18 nlme_torch/model/observation/counts.py \
        tests/model/observation/test_observation_precision.py "poisson|negative_binomial"

Arguments come in fours: how many mutants (0 for all), the file, the tests (several with commas), and a regular
expression that their names must match. Package, tests and the fixtures that they name are loaded once. In each fork the
changed file is run again and whatever the package or the tests took from the old one is replaced, so that a mutant
costs what its tests cost. Classes derived elsewhere from one that changed keep the old one: a survivor of that kind
has to be looked at.
"""

import ast
import contextlib
import copy
import importlib
import importlib.util
import inspect
import itertools
import os
import random
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from mutants import changes

ROOT = Path(__file__).resolve().parents[1]
FIXTURES: dict[str, Any] = {}
OWN = ("monkeypatch", "tmp_path")
"""Fixtures that every call of a test has anew."""


def cases(path: str, wanted: str) -> list[Callable[[], Any]]:
    """Return the tests of a file whose names match, one for every set of parameters."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    found: list[Callable[[], Any]] = []
    for name, function in vars(module).items():
        if not name.startswith("test_") or not re.search(wanted, name):
            continue
        sets = []
        for mark in getattr(function, "pytestmark", []):
            if mark.name != "parametrize":
                continue
            names = mark.args[0] if isinstance(mark.args[0], tuple) else re.split(r"\s*,\s*", mark.args[0])
            plain = [v.values if hasattr(v, "marks") else tuple(v) if len(names) > 1 else (v,) for v in mark.args[1]]
            values = [tuple(v) for v in plain]
            sets.append([dict(zip(names, v, strict=True)) for v in values])
        for chosen in itertools.product(*sets):
            given = {key: value for one in chosen for key, value in one.items()}
            needed = [key for key in inspect.signature(function).parameters if key not in given]
            given |= {key: fixture(module, key) for key in needed if key not in OWN}
            found.append(partial(call, function, given, [key for key in needed if key in OWN]))
    return found


def call(function: Callable[..., Any], given: dict[str, Any], own: list[str]) -> None:
    """Call a test, with what no two calls share."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        new = {"monkeypatch": patch, "tmp_path": Path(folder)}
        function(**given, **{key: new[key] for key in own})


def fixture(module: ModuleType, name: str) -> Any:
    """Return the value of a fixture of a test file, computed once."""
    key = f"{module.__name__}.{name}"
    if key not in FIXTURES:
        if not hasattr(module, name):
            import nlme_torch as nlme

            FIXTURES[key] = {"theophylline": nlme.examples.theophylline}[name]()
        else:
            made = getattr(module, name)
            plain = made._get_wrapped_function() if hasattr(made, "_get_wrapped_function") else made.__wrapped__
            FIXTURES[key] = plain(**{inner: fixture(module, inner) for inner in inspect.signature(plain).parameters})
    return FIXTURES[key]


def exchange(name: str, source: str) -> None:
    """Run a module's changed source in place, and replace what other modules took from it."""
    module = sys.modules[name]
    old = dict(vars(module))
    exec(compile(source, f"<{name}>", "exec"), vars(module))
    for other in list(sys.modules.values()):
        if other is module or not isinstance(other, ModuleType):
            continue
        if not (other.__name__.startswith(("nlme_torch", "test_", "support"))):
            continue
        for key, value in list(vars(other).items()):
            if not key.startswith("__") and key in old and value is old[key] and vars(module).get(key) is not value:
                setattr(other, key, vars(module)[key])


def passes(name: str, source: str, tests: list[Callable[[], Any]], limit: float) -> bool:
    """Whether every test passes in a fork with the changed source, within a limit of processor time."""
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 2))
            quiet = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(quiet, stream)
            exchange(name, source)
            for test in tests:
                test()
            code = 0
        os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def sample(source: str, count: int) -> tuple[int, list[tuple[int, str, str]]]:
    """Return how many mutants there are, and line, description and source of those that mutants.py would draw."""
    tree = ast.parse(source)
    places = [(place, n) for place, node in enumerate(ast.walk(tree)) for n, _ in enumerate(changes(node))]
    found = []
    for place, number in random.Random(0).sample(places, min(count or len(places), len(places))):
        mutated = copy.deepcopy(tree)
        node = next(itertools.islice(ast.walk(mutated), place, None))
        what, change = list(changes(node))[number]
        change(node)
        found.append((getattr(node, "lineno", 0), what, ast.unparse(ast.fix_missing_locations(mutated))))
    return len(places), sorted(found, key=lambda mutant: mutant[0])


def used() -> float:
    """Processor time of this process and its children."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def main() -> None:
    """Run a sample of every file's mutants."""
    torch.set_num_threads(1)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    arguments = sys.argv[1:]
    for count, file, paths, wanted in zip(*(arguments[i::4] for i in range(4)), strict=True):
        name = file.removesuffix(".py").replace("/", ".")
        importlib.import_module(name)
        tests = [case for path in paths.split(",") for case in cases(path, wanted)]
        original = (ROOT / file).read_text()
        before = used()
        if not passes(name, original, tests, 3600):
            print(f"{file}: the tests fail on the unchanged code", flush=True)
            continue
        cost = used() - before
        every, chosen = sample(original, int(count))
        survivors = 0
        for line, what, source in chosen:
            if passes(name, source, tests, 10 * cost + 10):
                survivors += 1
                print(f"{file}:{line}: {what}", flush=True)
        spent = used() - before
        print(
            f"{file}: {len(chosen)} of {every} run, {survivors} survive; {len(tests)} tests, {cost:.1f} s alone, "
            f"{spent:.0f} s in all, at {time.strftime('%H:%M:%S')}",
            flush=True,
        )


if __name__ == "__main__":
    main()
