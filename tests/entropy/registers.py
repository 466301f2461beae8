"""What the GPU kernel's programs need of a multiprocessor, by NVIDIA's assembler, which comes with triton: no GPU is wanted.

    python tests/entropy/registers.py    # a line for each program, head width and order

Registers that do not fit are kept in memory ("spilled"): a first version with tiles of 64 x 64 and float32's own products spilled 12 to
38 kB a thread and took ten times as long.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from itertools import product
from pathlib import Path
from typing import NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hushlm.entropy.kernels import triton as host
from hushlm.entropy.kernels import triton_code
from hushlm.entropy.kernels.base import Form

PROGRAMS = ("forward", "backward_queries", "backward_keys")
ASSEMBLER = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"


class Needs(NamedTuple):
    """Of one program on a Hopper GPU: registers a thread, bytes a thread that do not fit, shared bytes a block."""

    registers: int
    spilled_bytes: int
    shared_bytes: int


def needs(program: str, width: int, order: int | None, power: bool = False, capability: int = 90) -> Needs:
    """Compile one program for heads of a width."""
    function = getattr(triton_code, program)
    names = function.arg_names
    constants = dict(host._shape(width, Form(order, power), True))
    warps = constants.pop("num_warps")
    counts = ("queries", "keys", "width")
    types = {name: "constexpr" if name in constants else "i32" if name in counts else "*fp32" for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in constants}
    source = ASTSource(function, types, {(names.index(name),): value for name, value in constants.items()}, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(compiled.asm["ptx"])
        file.flush()
        command = [str(ASSEMBLER), "-v", f"--gpu-name=sm_{capability}a", file.name, "-o", "/dev/null"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, spilled = (re.search(pattern, told) for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores"))
    assert registers is not None
    assert spilled is not None
    return Needs(int(registers[1]), int(spilled[1]), compiled.metadata.shared)


if __name__ == "__main__":
    for width, form, program in product((32, 64, 128), (Form(), Form(2), Form(3, power=True)), PROGRAMS):
        print(f"width {width:3}, {form}, {program:16} {needs(program, width, form.order, form.power)._asdict()}")
