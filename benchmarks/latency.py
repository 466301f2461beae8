"""Hold the network model against real private passes through a relay: LAN and WAN, three architectures, at a small shape.

    python benchmarks/latency.py              # writes results/latency.json; best on an idle machine
    python benchmarks/latency.py --predict    # measures nothing: predicts what was measured anew, with today's model

The relay delays and limits in user space; what it achieves is measured with plain sockets and written beside every row. CPU time
is what it is on this machine at this hour: the pass is also timed without a relay, just before, and the prediction is given both
with the model's CPU seconds and with those.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from hushlm.calibration.relay import MeasuredLink
from hushlm.calibration.validation import MeasuredPass, measure, predict
from hushlm.config import ModelShape
from hushlm.cost.network import LAN, WAN
from hushlm.files import write_atomic

ARCHITECTURES = ("SM2+ScFuFFN", "SM1+R", "SM+LN+G")
SHAPE = ModelShape(layers=2, heads=2, width=32, context=32, vocabulary=64)
RESULTS = Path(__file__).parents[1] / "results" / "latency.json"


def row(measured: MeasuredPass, load: float) -> dict:
    return {
        "architecture": measured.architecture,
        "network": measured.network,
        "measured_round_trip_seconds": measured.link.round_trip_seconds,
        "measured_bits_per_second": measured.link.bits_per_second,
        "measured_seconds": measured.measured_seconds,
        "predicted_seconds": measured.predicted.seconds,
        "local_seconds": measured.local_seconds,
        "predicted_local_seconds": measured.predicted.compute_seconds,
        "predicted_on_local_seconds": measured.predicted_on_local_seconds,
        "error": measured.error,
        "error_on_local": measured.error_on_local,
        "counted_bytes": measured.counted_bytes,
        "predicted_bytes": measured.predicted.bytes,
        "load_average": load,
    }


def again(old: dict) -> dict:
    """A row of earlier with today's prediction."""
    link = MeasuredLink(old["measured_round_trip_seconds"], old["measured_bits_per_second"])
    name = old["architecture"]
    measured = MeasuredPass(
        name, old["network"], link, old["measured_seconds"], old["local_seconds"], old["counted_bytes"], predict(name, SHAPE, link)
    )
    return row(measured, old["load_average"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--passes", type=int, default=4, help="of each, the first left out")
    parser.add_argument("--predict", action="store_true", help="predict what results/latency.json measured anew, and measure nothing")
    options = parser.parse_args()
    if options.predict:
        document = json.loads(RESULTS.read_text())
        assert document["shape"] == vars(SHAPE)
        write_atomic(RESULTS, json.dumps(document | {"rows": [again(old) for old in document["rows"]]}, indent=1) + "\n")
        return
    rows = []
    for network in (LAN, WAN):
        for architecture in ARCHITECTURES:
            rows.append(row(measure(architecture, SHAPE, network, options.passes), os.getloadavg()[0]))
            print(json.dumps(rows[-1]), flush=True)
    write_atomic(
        RESULTS, json.dumps({"shape": vars(SHAPE), "cores": os.cpu_count(), "passes": options.passes - 1, "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
