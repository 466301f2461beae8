"""Compiles the CPU kernel to a shared library. Standard library only: the build hook runs this before anything is installed.

The library needs nothing but a C compiler and links nothing but OpenMP, which is left out where the compiler does not have it. On x86
it holds three variants of every function, for AVX-512, AVX2 and neither, and the processor's own is chosen when it is loaded: what is
built on one machine runs on another.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

__all__ = ["LIBRARY", "SOURCES", "build", "find_compiler", "fingerprint"]

SOURCES = Path(__file__).parent / "native"
LIBRARY = SOURCES / "libhush_attention.so"
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw"),
}
"""Compiler options by variant, narrowest first, in the order of `hush_level`; only the first exists outside x86-64."""

_OPTIONS = ("-O3", "-std=gnu11", "-fPIC", "-fno-math-errno", "-ffp-contract=fast", "-w")


def fingerprint() -> str:
    """sha256 over the C sources: a library built from others is not used."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def find_compiler() -> list[str]:
    """The command of the C compiler, with its options: the environment's CC, or the first of cc, gcc and clang; empty if there is none."""
    compiler = shlex.split(os.environ.get("CC", "")) or [name for name in ("cc", "gcc", "clang") if shutil.which(name)][:1]
    return compiler if compiler and shutil.which(compiler[0]) else []


def build(target: Path = LIBRARY) -> str | None:
    """Compile `native/attention.c` to `target`, which is replaced only by a complete library.

    The compiler is the environment's CC, or the first of cc, gcc and clang.

    Returns:
        None, or in one line why there is no library.
    """
    compiler = find_compiler()
    if not compiler:
        return "no C compiler was found"
    names = list(VARIANTS) if platform.machine().lower() in ("x86_64", "amd64") else ["plain"]
    error = "the compiler said nothing"
    for openmp in (["-fopenmp"], []):
        with tempfile.TemporaryDirectory() as folder:
            try:
                objects = [Path(folder, f"{name}.o") for name in names]
                for name, made in zip(names, objects, strict=True):
                    macros = [f"-DVARIANT={name}", f'-DFINGERPRINT="{fingerprint()}"', *(["-DDISPATCH"] if name == "plain" else [])]
                    _call([*compiler, *_OPTIONS, *openmp, *VARIANTS[name], *macros, "-c", str(SOURCES / "attention.c"), "-o", str(made)])
                linked = target.with_name(f".{target.name}.{os.getpid()}")
                _call([*compiler, "-shared", *openmp, *map(str, objects), "-lm", "-o", str(linked)])
                linked.replace(target)
                return None
            except subprocess.CalledProcessError as failure:
                lines = failure.stderr.strip().splitlines()
                error = lines[-1] if lines else error
            except OSError as failure:
                error = str(failure)
    return f"{compiler[0]} failed: {error}"


def _call(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
