"""Times mnistjax and other libraries on MNIST, and measures the limits of the machine.

    python scripts/run_benchmark.py [--only NAME ...] [--rounds 5] [--peers FOLDER]
    python scripts/run_benchmark.py --pythons .venv/bin/python other/bin/python --only NAME ...
    python scripts/run_benchmark.py --show

Contenders are processes (scripts/benchmark/contenders); this script makes a virtual environment in FOLDER
for each library that mnistjax does not need. A peer first trains a part of an epoch with each of its
settings; then all train in turn, each at its best setting. Seconds are wall time per epoch without compiling:
the median of the rounds. mnistjax's time is the time of the whole of `fit`. A floor is the time of the matrix
products alone, by NumPy at their shapes, or of reading the images once, whichever is longer.

scripts/benchmark/records keeps the results of each date and commit as JSON. Measuring everything takes an
hour and a half on two cores. So a new record begins with the results of the newest record, each with its
commit, if that is from such a machine. A workload that today's commit has already measured is measured again
only if `--only` names it. `--show` writes the newest record to the tables in scripts/benchmark/README.md and
to .github/benchmark.png. `--pythons` times mnistjax alone under several Pythons, to compare versions.
"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path

from benchmark import results, versions
from benchmark.measure import DEFAULTS, OTHERS, WORKLOADS, measure_all, read_newest

PICTURE = Path(__file__).parents[1] / ".github" / "benchmark.png"


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], choices=[*WORKLOADS, *OTHERS], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=Path, default=Path("~/.cache/mnistjax/peers").expanduser())
    parser.add_argument("--pythons", nargs="+", type=Path, metavar="PYTHON")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    args = parser.parse_args()
    if args.pythons:
        if others := [name for name in args.only if name in OTHERS]:
            parser.error(f"--pythons measures training and evaluation only, not {', '.join(others)}")
        workloads = {name: {**DEFAULTS, **WORKLOADS[name]} for name in args.only or WORKLOADS}
        print(versions.compare(workloads, args.pythons, args.rounds))
    elif not args.show:
        measure_all(args.only, args.rounds, args.peers)
    elif record := read_newest():
        print(results.show(record, PICTURE))
    else:
        raise SystemExit("there are no results yet; run this without --show first")


if __name__ == "__main__":
    main()
