"""What the source itself must look like: the direction of imports, docstrings, lengths, and things
that are not allowed."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import nlme_torch

ROOT = Path(nlme_torch.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))

# what each part may import besides itself and the foundations (errors, _typing, settings)
MAY_IMPORT = {
    "errors": set(),
    "_typing": set(),
    "settings": set(),
    "data": set(),
    "solve": set(),
    "compartments": {"data", "solve"},
    "model": {"data", "solve"},
    "examples": {"data", "compartments", "model"},
    "omega": {"model"},
    "inference": {"data", "solve", "model"},
    "diagnostics": {"data", "solve", "model", "inference"},
    "plots": {"data", "solve", "model", "inference", "diagnostics"},
    "nonmem": {"data", "solve", "compartments", "model", "inference"},
    "__main__": {"nonmem"},
    "reporting": {"data", "solve", "model", "inference", "diagnostics", "plots"},
}
FOUNDATIONS = {"errors", "_typing", "settings"}


def module_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def imported_modules(path):
    """Absolute dotted names of everything from this package that a file imports, inside functions too."""
    own = module_of(path)
    package = own if path.name == "__init__.py" else own[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            # "from nlme_torch import data" names the part only in the alias
            names = [[*base, alias.name] for alias in node.names] if base == ["nlme_torch"] else [base]
        else:
            continue
        yield from (name for name in names if name[0] == "nlme_torch")


def wrong_imports(path, imports):
    part = module_of(path)[1]
    allowed = MAY_IMPORT[part] | FOUNDATIONS | {part}
    return [".".join(name) for name in imports if len(name) < 2 or name[1] not in allowed]


@pytest.mark.parametrize("path", [p for p in SOURCES if len(module_of(p)) > 1], ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    assert wrong_imports(path, imported_modules(path)) == []


def test_the_import_check_sees_wrong_imports(tmp_path, monkeypatch):
    imports = ("from ..inference.saem import SAEM", "from nlme_torch import plots", "import nlme_torch.model")
    source = "\n    ".join(("def f():", *imports)) + "\n"
    path = ROOT / "model" / "imaginary.py"
    tree = ast.parse(source)
    monkeypatch.setattr(Path, "read_text", lambda self: source)
    assert wrong_imports(path, list(imported_modules(path))) == ["nlme_torch.inference.saem", "nlme_torch.plots"]
    assert isinstance(tree, ast.Module)


def test_every_part_of_the_package_has_a_place_in_the_order():
    parts = {module_of(path)[1] for path in SOURCES if len(module_of(path)) > 1}
    assert parts <= set(MAY_IMPORT)


def test_optional_and_plotting_libraries_stay_where_they_belong():
    """A fit needs no matplotlib; tensors need no pandas below the data and the tables."""
    for path in SOURCES:
        text = path.read_text()
        if module_of(path)[1:2] not in [("plots",), ("reporting",)]:
            assert "import matplotlib" not in text and "import seaborn" not in text, path
        if module_of(path)[1:2] == ("solve",):
            assert "import pandas" not in text, path


def public_nodes(tree):
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            if not any("overload" in ast.dump(decorator) for decorator in node.decorator_list):
                yield node
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    overload = isinstance(member, ast.FunctionDef) and not member.name.startswith("_")
                    if overload and not any("overload" in ast.dump(d) for d in member.decorator_list):
                        yield member


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_public_names_are_documented_and_files_are_short(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    undocumented = [node.name for node in public_nodes(tree) if not ast.get_docstring(node)]
    assert undocumented == []
    assert len(path.read_text().splitlines()) <= 400, "past 400 lines a file needs a reason"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_prints_no_global_seeds_no_pickle(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            assert not {"pickle", "dill", "cloudpickle"} & set(names)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print"
            assert called not in {
                "torch.manual_seed",
                "np.random.seed",
                "random.seed",
                "pyro.set_rng_seed",
                "torch.set_default_dtype",
                "torch.set_num_threads",
                "torch.save",
                "torch.load",
                "pyro.clear_param_store",
                "warnings.simplefilter",
                "warnings.filterwarnings",
            }


def test_every_public_name_is_reexported_explicitly_and_exists():
    """What a type checker reads and what is loaded on first use are the same names from the same places."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    declared = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom), "the public API consists of re-exports and nothing else"
        for alias in node.names:
            assert alias.asname == alias.name, f"write `import {alias.name} as {alias.name}`"
            declared[alias.name] = node.module
    loaded = {name: "nlme_torch" for name in nlme_torch._PARTS} | nlme_torch._HOMES
    assert loaded == declared
    assert set(nlme_torch.__all__) == set(declared) <= set(dir(nlme_torch))
    for name, home in declared.items():
        module = importlib.import_module(f"nlme_torch.{name}" if name in nlme_torch._PARTS else home)
        assert getattr(nlme_torch, name) is (module if name in nlme_torch._PARTS else getattr(module, name))
    with pytest.raises(AttributeError, match="module 'nlme_torch' has no attribute 'FOCEE'"):
        nlme_torch.FOCEE  # noqa: B018


def test_importing_the_package_loads_no_library():
    """Each name brings along what it needs when it is first used; ``import nlme_torch`` costs nothing."""
    libraries = ("torch", "scipy", "pandas", "matplotlib", "pyro", "torchdiffeq", "jaxtyping")
    script = f"import sys, nlme_torch; sys.exit(', '.join({{*{libraries}}} & {{*sys.modules}}) or 0)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT.parent)
    assert run.returncode == 0, f"import nlme_torch loads {run.stderr}"


def test_shapes_are_checked_at_run_time_here():
    """The import hook of pyproject.toml must be alive, or the annotated shapes are decoration."""
    import torch

    from nlme_torch.inference.effects.effect_estimates import shrinkage

    with pytest.raises(Exception, match="(?i)type-check|hint"):
        shrinkage(torch.zeros(2, 3, 4), torch.eye(2))


def test_no_part_reads_what_another_keeps_to_itself():
    """An attribute that begins with an underscore is read in the room that sets it."""
    foreign = []
    for path in SOURCES:
        module = module_of(path)
        if len(module) < 2 or module[1] not in ("inference", "diagnostics", "plots"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.startswith("__"):
                continue
            owner = ast.unparse(node.value).split(".")[-1]
            if owner in ("density", "conditional", "model", "batch", "fit"):
                foreign.append(f"{path.relative_to(ROOT)}: {ast.unparse(node)}")
    assert foreign == []


def unexplained(path):
    """Numbers at the top of a file that nothing beside them explains: no string below, no comment."""
    text = path.read_text()
    lines, body = text.splitlines(), ast.parse(text).body
    for place, node in enumerate(body):
        if not isinstance(node, ast.Assign) or not ast.unparse(node.targets[0]).replace(", ", "").strip("()").isupper():
            continue
        constants = [part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant)]
        simple = not any(isinstance(part, ast.Call | ast.Lambda | ast.Dict) for part in ast.walk(node.value))
        if not simple or not any(isinstance(value, int | float) for value in constants):
            continue
        after = body[place + 1] if place + 1 < len(body) else None
        explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        comment = "#" in lines[node.end_lineno - 1] or lines[node.lineno - 2].strip().startswith("#")
        if not explained and not comment:
            yield ast.unparse(node)


# Numbers that still want their reason. This list may only become shorter.
UNEXPLAINED = {
    "inference/effects/moves.py",
    "inference/saem/certificate.py",
    "inference/saem/newton_m_step.py",
    "inference/saem/saem.py",
}


def test_every_number_at_the_top_of_a_file_has_its_reason_beside_it():
    found = {str(path.relative_to(ROOT)): list(unexplained(path)) for path in SOURCES if "examples" not in path.parts}
    found = {name: numbers for name, numbers in found.items() if numbers}
    assert {name: found[name] for name in found.keys() - UNEXPLAINED} == {}
    assert set(found) >= UNEXPLAINED, "shorten the list"
