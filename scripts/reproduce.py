"""Trains every network of the lab report and writes a page of its tables, conclusions and figures.

    python scripts/reproduce.py FOLDER [--quick] [--only STEP...] [--data mnist]
    python scripts/reproduce.py FOLDER --readme

Each experiment is a sweep in FOLDER; the same command continues one that was stopped. The next step trains
each optimizer at its own learning rate, chosen on the validation images by short runs of one seed. The last
step times single runs. `--quick` trains two epochs of two seeds, for a look; `--only` runs only these steps.
The page is FOLDER/report/report.html. `--readme` trains nothing: it copies the results of FOLDER's page to
the record and the tables in scripts/lab_report, whose other results stay as they are.
"""

import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from lab_report.page import RECORD
from lab_report.reproduction import STEPS, Reproduction, reproduce, write_readme
from training import errors_in_one_line


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--quick", action="store_true")
    one_of = ", ".join(STEPS)
    parser.add_argument("--only", nargs="+", choices=STEPS, default=STEPS, metavar="STEP", help=one_of)
    parser.add_argument("--readme", action="store_true")
    parser.add_argument("--data", default="mnist")
    args = parser.parse_args()
    with errors_in_one_line():
        if args.readme:
            write_readme(json.loads((args.folder / "report" / RECORD).read_bytes()))
        else:
            reproduce(Reproduction(args.folder.absolute(), args.data, args.quick), args.only)


if __name__ == "__main__":
    main()
