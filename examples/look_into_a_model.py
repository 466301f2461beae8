"""Train a small model from Python, and look into its heads.

    python examples/look_into_a_model.py [ARCHITECTURE] [STEPS]

By default EReg(SM(t)+ScFuFFN) for 300 steps on the interpreter's standard library: about a minute on two cores.
"""

import sys
from pathlib import Path

from hushlm import RunConfig, TrainingConfig, evaluate, open_token_store, summarise, train


def main() -> None:
    architecture = sys.argv[1] if len(sys.argv) > 1 else "EReg(SM(t)+ScFuFFN)"
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 300
    config = RunConfig(
        architecture=architecture,
        training=TrainingConfig(steps=steps, evaluate_every=100),
        output=Path("runs/example"),
    )
    store = open_token_store(config.data)

    def show(record) -> None:
        if record.row and "validation_perplexity" in record.row:
            print(f"step {record.step}: validation perplexity {record.row['validation_perplexity']:.2f}")

    result = train(config, store, on_step=show)

    # The test split was not looked at so far.
    test = evaluate(result.model, store.tokens["test"], batch=8, context=config.shape.context, batches=32)
    report = summarise(test.head_entropy_nats_LH, config.shape.context)
    print(f"test perplexity {test.perplexity:.2f}")
    for layer, heads in enumerate(report.head_entropy_nats_LH):
        print(f"layer {layer}: " + "  ".join(f"{nats:.2f}" for nats in heads) + " nats")
    print(f"overload: {report.overload}   collapse: {report.collapse}   checkpoint: {result.folder}")


if __name__ == "__main__":
    main()
