"""Which room may import which, inside the large parts of the package, and that no imports go in circles.

Imports inside functions and those for types only count like any other.
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import nlme_torch

ROOT = Path(nlme_torch.__file__).parent

# what each room may import, besides itself, of the rooms of its own part; lower rooms come first
ROOMS = {
    "data": {
        "table": set(),
        "events": {"table"},
        "covariates": {"table"},
        "outcomes": {"table", "events"},
        "dosing": {"table", "events"},
        "records": {"table", "events", "covariates", "outcomes", "dosing"},
        "design": {"table", "events", "covariates", "records"},
        "dataset": {"table", "events", "dosing", "records", "design"},
    },
    "solve": {
        "problem": set(),
        "tableau": set(),
        "kernel": {"problem", "tableau"},
        "stepping": {"problem", "tableau", "kernel"},
        "methods": {"problem", "tableau", "kernel", "stepping"},
        "linear": {"problem", "kernel", "stepping"},
        "integrate": {"problem"},
    },
    "model": {
        "random_effects": set(),
        "parameters": {"random_effects"},
        "networks": {"random_effects", "parameters"},
        "observation": set(),
        "individual": {"networks"},
        "dosing": set(),
        "switches": {"dosing"},
        "declare": {"random_effects", "parameters", "networks", "individual", "dosing"},
        "covariates": {"parameters", "individual", "declare"},
        "trajectory": {"individual", "dosing", "switches", "declare"},
        "density": {
            "parameters",
            "networks",
            "observation",
            "individual",
            "dosing",
            "switches",
            "declare",
            "covariates",
            "trajectory",
        },
        "compiled": {
            "parameters",
            "networks",
            "observation",
            "individual",
            "dosing",
            "declare",
            "trajectory",
            "density",
        },
        "pyro": {"random_effects", "parameters", "networks", "declare", "density"},
    },
    "inference": {
        "progress": set(),
        "numerics": set(),
        "mcmc": set(),
        "modes": {"numerics", "mcmc"},
        "effects": {"numerics", "mcmc", "modes"},
        "estimates": {"effects"},
        "marginal": {"numerics", "modes", "estimates"},
        "optimise": {"numerics", "estimates", "marginal"},
        "likelihood": {"progress", "numerics", "mcmc", "modes", "effects", "estimates", "marginal"},
        "pooled": {"progress", "estimates", "marginal", "optimise"},
        "saem": {"progress", "numerics", "mcmc", "modes", "effects", "estimates", "optimise", "likelihood", "pooled"},
        "foce": {
            "progress",
            "numerics",
            "modes",
            "effects",
            "estimates",
            "marginal",
            "optimise",
            "likelihood",
            "saem",
        },
        "information": {"progress", "numerics", "effects", "estimates", "marginal", "saem"},
        "uncertainty": {"progress", "numerics", "estimates", "marginal", "optimise", "foce", "information"},
        "residuals": {"numerics", "marginal"},
        "fitting": {
            "modes",
            "effects",
            "estimates",
            "marginal",
            "optimise",
            "likelihood",
            "pooled",
            "saem",
            "foce",
            "information",
            "uncertainty",
            "residuals",
        },
        "validation": {"progress", "effects", "estimates", "likelihood", "information", "fitting"},
        "simulation": {"uncertainty", "fitting"},
        "strategies": {
            "numerics",
            "effects",
            "estimates",
            "optimise",
            "likelihood",
            "pooled",
            "foce",
            "fitting",
            "validation",
        },
    },
}

# Imports against this order that are still to be cut. This list may only become shorter.
BACKWARDS = {
    ("model.declare.model", "model.pyro.program"),
}


def own_imports(path):
    """Absolute dotted names of the files of this package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("nlme_torch"))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module.split(".")[0] == "nlme_torch":
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    yield full if full in FILES else node.module


def module_name(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
IMPORTS = {name: set(own_imports(path)) - {name} for name, path in FILES.items()}


def room_of(name):
    """Part and room, or None: ``("inference", "saem")``."""
    parts = name.split(".")
    return (parts[1], parts[2]) if len(parts) > 2 and parts[1] in ROOMS else None


def backwards():
    for name, imported in IMPORTS.items():
        own = room_of(name)
        for other in imported:
            room = room_of(other)
            if own is None or room is None or own[0] != room[0] or own[1] == room[1]:
                continue
            if room[1] not in ROOMS[own[0]].get(own[1], ()):
                yield name.removeprefix("nlme_torch."), other.removeprefix("nlme_torch.")


def test_rooms_import_only_what_they_may():
    assert set(backwards()) - BACKWARDS == set()


def test_no_arrow_is_excused_that_is_gone():
    edges = {
        (name.removeprefix("nlme_torch."), other.removeprefix("nlme_torch."))
        for name, imported in IMPORTS.items()
        for other in imported
    }
    assert edges >= BACKWARDS, "shorten the list"


@pytest.mark.parametrize("part", ROOMS)
def test_every_file_lives_in_a_room_and_every_room_in_the_table(part):
    rooms = {room[1] for name in FILES if (room := room_of(name)) is not None and room[0] == part}
    assert rooms == set(ROOMS[part])


def test_imports_do_not_go_in_circles():
    """Files that only collect what others define are left out: whoever imports them takes a name, not the folder."""
    graph = {
        name: {
            other
            for other in imported
            if (name.removeprefix("nlme_torch."), other.removeprefix("nlme_torch.")) not in BACKWARDS
            and FILES[other].name != "__init__.py"
        }
        for name, imported in IMPORTS.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_order_of_the_rooms_has_no_circle():
    for rooms in ROOMS.values():
        TopologicalSorter(rooms).prepare()


def test_the_guide_for_contributors_names_the_rooms():
    guide = (ROOT.parent / "CONTRIBUTING.md").read_text()
    for part, rooms in ROOMS.items():
        (row,) = [line for line in guide.splitlines() if line.startswith(f"| {part} |")]
        assert set(row.split("|")[2].replace(",", " ").split()) == set(rooms) - {"progress"}
