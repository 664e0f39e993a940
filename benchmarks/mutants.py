"""Question: which faults would no test notice? Changes one operator, comparison or constant at a time and runs tests.

    nice python benchmarks/mutants.py nlme_torch/model/observation/counts.py \
        --tests tests/model/observation --json counts.json

Works on copies of the package and the tests in a temporary folder; the tree it is called in is only read. A mutant
survives when every named test passes. One that does not end within ten times the time of the unchanged code counts as
found.
"""

import argparse
import ast
import contextlib
import copy
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import mpmath  # noqa: F401  what the tests import, once for all mutants
import pandas  # noqa: F401
import pyro  # noqa: F401
import pytest
import scipy.optimize  # noqa: F401
import scipy.stats  # noqa: F401
import seaborn  # noqa: F401
import torch

OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And, ast.Is: ast.IsNot,
    ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.USub: ast.UAdd,
}  # fmt: skip


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, description and source of every mutant."""
    tree = ast.parse(source)
    for position, node in enumerate(ast.walk(tree)):
        for what, change in changes(node):
            mutated = copy.deepcopy(tree)
            target = next(other for place, other in enumerate(ast.walk(mutated)) if place == position)
            change(target)
            yield getattr(node, "lineno", 0), what, ast.unparse(ast.fix_missing_locations(mutated))


def changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    """Yield the single changes that a node allows: what it becomes, and a function that changes it in place."""
    if isinstance(node, ast.BinOp | ast.BoolOp | ast.UnaryOp) and type(node.op) in OPERATORS:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and is_type(node):
            return
        new = OPERATORS[type(node.op)]
        yield f"{ast.unparse(node)}: {type(node.op).__name__} -> {new.__name__}", lambda n: setattr(n, "op", new())
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        new = OPERATORS[type(node.ops[0])]
        yield f"{ast.unparse(node)}: -> {new.__name__}", lambda n: setattr(n, "ops", [new(), *n.ops[1:]])
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield f"{node.value} -> {node.value + 1}", lambda n: setattr(n, "value", n.value + 1)
        if isinstance(node.value, float) and node.value:
            yield f"{node.value} -> {node.value * 1.01}", lambda n: setattr(n, "value", n.value * 1.01)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", lambda n: setattr(n, "value", not n.value)


def is_type(node: ast.AST) -> bool:
    """Whether ``A | B`` joins types rather than values."""
    if isinstance(node, ast.BinOp):
        return is_type(node.left) and is_type(node.right)
    if isinstance(node, ast.Constant):
        return node.value is None
    name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
    return name[:1].isupper() or name in ("int", "float", "str", "bool")


def passes(folder: Path, tests: list[str], limit: float) -> bool:
    """Run tests in a process of their own that has the libraries already, stopping at the first that fails."""
    process = multiprocessing.get_context("fork").Process(target=run, args=(folder, tests))
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def run(folder: Path, tests: list[str]) -> None:
    """Run tests and leave."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        code = pytest.main(["-x", "-n", "0", "-p", "no:cacheprovider", "-o", "addopts=-m 'not slow'", *tests])
    os._exit(int(code))


def main() -> None:
    """Run every mutant, or a sample of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="files to change, relative to the root")
    parser.add_argument("--tests", nargs="+", required=True)
    parser.add_argument("--only", default="", help="expression that chooses among the tests, as pytest's -k")
    parser.add_argument("--sample", type=int, default=0, help="mutants of each file, drawn with seed 0; 0 for all")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    tests = [*options.tests, "-k", options.only] if options.only else options.tests
    root = Path(__file__).resolve().parents[1]
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for part in ("nlme_torch", "tests"):
            shutil.copytree(root / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(root / "pyproject.toml", folder)
        began = time.perf_counter()
        if not passes(folder, tests, 3600):
            raise SystemExit("the tests fail on the unchanged code")
        limit = 10 * (time.perf_counter() - began) + 30
        for name in options.files:
            original = (folder / name).read_text()
            every = list(mutants(original))
            chosen = random.Random(0).sample(every, min(options.sample or len(every), len(every)))
            survivors = []
            for line, what, source in sorted(chosen, key=lambda mutant: mutant[0]):
                (folder / name).write_text(source)
                if passes(folder, tests, limit):
                    survivors.append({"line": line, "change": what})
                    print(f"{name}:{line}: {what}", flush=True)
            (folder / name).write_text(original)
            results[name] = {"mutants": len(every), "run": len(chosen), "survivors": survivors}
            print(f"{name}: {len(chosen)} of {len(every)} run, {len(survivors)} survive", flush=True)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
