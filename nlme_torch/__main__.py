"""``python -m nlme_torch convert run1.mod``: a NONMEM control stream as a Python file."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nlme_torch.errors import NLMEError
from nlme_torch.nonmem.reading import read
from nlme_torch.nonmem.writing import write


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words of the command; those of the process if None.

    Returns:
        The exit status: 0, or 1 after an error.
    """
    parser = argparse.ArgumentParser(prog="python -m nlme_torch", description="Nonlinear mixed-effects models.")
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert", help="write a NONMEM control stream as a Python file")
    convert.add_argument("stream", help="the control stream, such as run1.mod")
    convert.add_argument("--estimates", help="an .ext file: its final estimates in place of the initial values")
    convert.add_argument("--data", help="the data file, where it lies elsewhere than $DATA says")
    convert.add_argument("--output", help="the Python file; without it the code is printed")
    chosen = parser.parse_args(arguments)
    try:
        written = write(read(chosen.stream, chosen.estimates, chosen.data))
    except NLMEError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for note in written.notes:
        sys.stderr.write(f"note: {note}\n")
    if chosen.output is None:
        sys.stdout.write(written.source)
        return 0
    try:
        Path(chosen.output).write_text(written.source, encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"{chosen.output} cannot be written: {error.strerror or error}.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
