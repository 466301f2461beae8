"""The GPU kernel, in Triton's interpreter and, where there is one, on a GPU; in processes of its own: triton asks when imported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

PARITY = """
import itertools, sys, torch
from hushlm.entropy import entropy_attention
from hushlm.entropy.kernels import triton

torch.set_num_threads(1)
device, tile = sys.argv[1], int(sys.argv[2])
triton.QUERIES = triton.KEYS = tile  # 16: small inputs cross block borders


def results(kernel, dtype, T, S, E, order, causal, scale, which):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, 2, E, generator=generator).transpose(1, 2) for n in (T, S, S))
    k[:, :, S // 2] = k[:, :, 0]  # a tie, at the top in some rows
    t = torch.rand(2, T, generator=generator) + 0.5
    q, k, v, t = (x.to(device, dtype).requires_grad_() for x in (q * scale, k, v, t))
    form = {"order": abs(order) if order else None, "power": bool(order and order < 0)}
    output, entropy_nats = entropy_attention(q, k, v, temperature=t, **form, causal=causal, kernel=kernel)
    of_output, of_entropy = (torch.randn(x.shape, generator=generator).to(device, dtype) for x in (output, entropy_nats))
    loss = {"both": (of_output * output).sum() + (of_entropy * entropy_nats).sum(), "output": (of_output * output).sum(),
            "entropy": (of_entropy * entropy_nats).sum()}[which]
    return [output.detach(), entropy_nats.detach(), *torch.autograd.grad(loss, (q, k, v, t), materialize_grads=True)]


shapes = [(1, 1, 4), (19, 19, 16), (5, 20, 24), (20, 20, 80)] + ([(130, 130, 64), (100, 200, 64)] if device == "cuda" else [])
cases = [*itertools.product(shapes, (None, 1, 2, 3, -3), (True,), (1.0,), ("both",)),
         *(((19, 19, 8), order, causal, 8.0, "both") for order in (None, 2) for causal in (True, False)),
         *(((19, 19, 8), order, True, 1.0, which) for order in (None, 2, -1) for which in ("output", "entropy")),
         *(((19, 19, 8), -2, causal, 1.0, "both") for causal in (True, False))]  # below 0: the power kernel
for (T, S, E), order, causal, scale, which in cases:
    exact = results("reference", torch.float64, T, S, E, order, causal, scale, which)
    plain = results("analytic", torch.float32, T, S, E, order, causal, scale, which)
    found = results("triton", torch.float32, T, S, E, order, causal, scale, which)
    for name, x, y, z in zip(("output", "entropy", "d_q", "d_k", "d_v", "d_t"), exact, plain, found, strict=True):
        size = x.abs().max().clamp_min(1.0)
        error, plain_error = float((x - z).abs().max() / size), float((x - y).abs().max() / size)
        assert error <= max(1e-5, 3 * plain_error), (T, S, E, order, causal, scale, which, name, error, plain_error)
print(len(cases), "cases")
"""

NOT_A_NUMBER = """
import sys, torch
from hushlm.entropy import entropy_attention
q = torch.ones(1, 1, 20, 16, device=sys.argv[1])
k = q.clone()
k[0, 0, 10, 0] = float("nan")
for order in (None, 2):
    output, entropy_nats = entropy_attention(q, k, q, order=order, kernel="triton")
    assert output[0, 0, 10:].isnan().all() and entropy_nats[0, 0, 10:].isnan().all(), order
    assert output[0, 0, :10].isfinite().all(), order
print("seen")
"""


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def printed(code: str, *arguments: str) -> str:
    """What code prints in a process of its own, where the first argument is "cpu" in triton's interpreter."""
    interpreter = {"TRITON_INTERPRET": "1" if arguments[:1] == ("cpu",) else "0", "OMP_NUM_THREADS": "1"}
    command, root = [sys.executable, "-c", code, *arguments], Path(__file__).parents[2]
    run = subprocess.run(command, env=os.environ | interpreter, cwd=root, capture_output=True, text=True, timeout=400, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


@pytest.mark.slow
def test_values_and_gradients_are_the_references() -> None:
    assert printed(PARITY, "cpu", "16") == "32 cases\n"


@pytest.mark.slow
@on_a_gpu
@pytest.mark.parametrize("tile", [16, 32])
def test_values_and_gradients_on_a_gpu(tile: int) -> None:
    assert printed(PARITY, "cuda", str(tile)) == "42 cases\n"


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_a_gpu)])
def test_what_is_not_a_number_stays_so(device: str) -> None:
    assert printed(NOT_A_NUMBER, device) == "seen\n"


REGISTERS = """
from itertools import product
from tests.entropy.registers import PROGRAMS, needs
for width, form, program in product((48, 64, 128), ((None, False), (2, False), (3, True)), PROGRAMS):
    found = needs(program, width, *form)
    assert found.spilled_bytes < 100, (width, form, program, found)
    assert found.shared_bytes < 110_000, (width, form, program, found)
print("fit")
"""


@pytest.mark.slow
def test_the_programs_fit_into_a_gpus_registers() -> None:
    """Compiled for a GPU that need not be there: what does not fit is ten times slower, and no other test would tell."""
    assert printed(REGISTERS) == "fit\n"
