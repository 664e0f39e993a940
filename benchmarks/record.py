"""How figures are written: flat keys into one JSON file, and under what conditions they were measured."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import date
from functools import cache
from pathlib import Path

import torch

Figures = dict[str, float | str]


@cache
def commit() -> str:
    """The commit that the code stands at when first asked, with a word about changes that are in none."""
    folder = Path(__file__).resolve().parent
    asked = ["git", "describe", "--always", "--abbrev=7", "--dirty=, changed", "--exclude=*"]
    try:
        return subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def conditions() -> str:
    """Date, commit, versions, threads and load, for a key X_run."""
    return (
        f"{date.today().isoformat()}, commit {commit()}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} thread of {os.cpu_count()} cores, load "
        f"{os.getloadavg()[1]:.1f}"
    )


def record(path: Path | None, more: Mapping[str, float | str]) -> None:
    """Add figures to a file, keeping its others; written aside and renamed, so that nothing is lost."""
    if path is None:
        return
    known: Figures = json.loads(path.read_text()) if path.exists() else {}
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({**known, **more}, indent=1) + "\n")
    partial.replace(path)
