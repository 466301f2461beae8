"""Refit the packaged constants of the cost room from two-party micro-runs, and show what changed.

python benchmarks/calibrate.py            # some minutes; writes src/hushlm/cost/constants/
python benchmarks/calibrate.py --bytes    # bytes only; seconds and round trips are kept (for a busy machine)
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from hushlm.calibration.fit import calibrate
from hushlm.cost.constants import DEFAULT_CONSTANTS, load_constants
from hushlm.files import write_atomic
from hushlm.report.cost_tables import residuals_table
from hushlm.report.table import Column, Table, print_table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bytes", action="store_true", help="fit bytes only")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each micro-program")
    options = parser.parse_args()
    before = asdict(load_constants().values)
    fitted = calibrate(options.repeats, timings=not options.bytes)
    rows = [{"name": name, "before": before[name], "after": value} for name, value in asdict(fitted.values).items()]
    columns = (Column("name", "constant"), Column("before", "before", ",.7g", "right"), Column("after", "fitted", ",.7g", "right"))
    print_table(Table(f"{fitted.engine}, constants version {fitted.version}", columns, rows))
    residuals = [asdict(residual) | {"relative": residual.relative} for residual in fitted.residuals]
    print_table(residuals_table("Residuals", residuals))
    path = Path(str(files("hushlm.cost") / "constants" / DEFAULT_CONSTANTS))
    write_atomic(path, fitted.to_json())
    print(path)


if __name__ == "__main__":
    main()
