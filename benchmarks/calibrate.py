"""Refit the packaged constants of the cost room from two-party micro-runs, and show what changed.

python benchmarks/calibrate.py            # some minutes; writes src/hushlm/cost/constants/
python benchmarks/calibrate.py --bytes    # bytes only; seconds and round trips are kept (for a busy machine)
python benchmarks/calibrate.py --prepared # seconds and round trips of answers from prepared material
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

from hushlm.calibration.fit import calibrate
from hushlm.calibration.prepared_fit import calibrate_prepared
from hushlm.cost.constants import DEFAULT_CONSTANTS, load_constants
from hushlm.cost.prepared.online_constants import FILE, load_online_constants
from hushlm.files import write_atomic
from hushlm.report.cost_tables import residuals_table
from hushlm.report.table import Column, Table, print_table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bytes", action="store_true", help="fit bytes only")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each micro-program")
    parser.add_argument("--prepared", action="store_true", help="fit the calls of prepared answers instead")
    options = parser.parse_args()
    if options.prepared:
        calibrate_online(options.repeats)
        return
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


def calibrate_online(repeats: int) -> None:
    """The constants of prepared answers."""
    before, fitted = load_online_constants(), calibrate_prepared(repeats)
    columns = {"before": before.values, "values": fitted.values, "elapsed": fitted.elapsed}
    rows = [{"name": name, **{key: getattr(each, name) for key, each in columns.items()}} for name in asdict(fitted.values)]
    shown = (Column("name", "constant"), *(Column(key, key, ",.4g", "right") for key in columns))
    print_table(Table(f"{fitted.engine}, {fitted.machine}, {fitted.measured}", shown, rows))
    print_table(residuals_table("Residuals", [asdict(residual) | {"relative": residual.relative} for residual in fitted.residuals]))
    path = Path(str(files("hushlm.cost") / "constants" / FILE))
    write_atomic(path, fitted.to_json())
    print(path)


if __name__ == "__main__":
    main()
