"""How figures are written: flat keys into one JSON file, and under what conditions they were measured."""

import json
import os
import platform
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import torch

Figures = dict[str, float | str]


def conditions() -> str:
    """Date, versions, threads and load, for a key X_run."""
    return (
        f"{date.today().isoformat()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} thread of {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}"
    )


def record(path: Path | None, more: Mapping[str, float | str]) -> None:
    """Add figures to a file, keeping its others; written aside and renamed, so that nothing is lost."""
    if path is None:
        return
    known: Figures = json.loads(path.read_text()) if path.exists() else {}
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({**known, **more}, indent=1) + "\n")
    partial.replace(path)
