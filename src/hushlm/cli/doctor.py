"""`hushlm doctor`."""

from __future__ import annotations

import importlib
import platform
from dataclasses import asdict, dataclass

from hushlm.extras import ENGINE_PACKAGES, EXTRAS, engine_problem, installed_version, missing_packages
from hushlm.report.table import Column, Table, print_json, print_table

__all__ = ["doctor"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked at.
        works: whether it can be used.
        found: a version, or what was found.
        advice: what is missing and what to do about it; empty if it works.
        essential: whether the core needs it.
    """

    name: str
    works: bool
    found: str
    advice: str = ""
    essential: bool = False


def doctor(json: bool = False) -> int:
    """Say what of this installation works, and what to do about the rest.

    Looks at Python, the packages of the core, the compiled attention kernel, the C compiler that builds it, the two-party engine of
    private inference, and the optional extras. Ends with 0 if training and analysis work, even where something optional is missing,
    and with 1 if a package of the core cannot be imported.

    Args:
        json: print one JSON document instead of the table.
    """
    engine = _engine()
    findings = [
        Finding("Python", True, platform.python_version(), essential=True),
        *(_core_package(name) for name in ("torch", "numpy")),
        *_kernel(),
        engine,
        *(_extra(name) for name in EXTRAS),
    ]
    works = all(finding.works for finding in findings if finding.essential)
    if json:
        print_json({"core_works": works, "findings": [asdict(finding) for finding in findings]})
    else:
        columns = (
            Column("name", ""),
            Column("works", "works", lambda yes: "yes" if yes else "no"),
            Column("found", "found"),
            Column("advice", "what to do"),
        )
        note = "Training and analysis work." if works else "Training and analysis do not work: a package of the core cannot be imported."
        if works and engine.works:
            note += " So does private inference."
        print_table(Table("This installation", columns, [asdict(finding) for finding in findings], note))
    return 0 if works else 1


def _core_package(name: str) -> Finding:
    try:
        importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: a shared library of the package that does not load
        return Finding(name, False, "", f"It cannot be imported ({error}): pip install --force-reinstall hushlm.", essential=True)
    return Finding(name, True, installed_version(name) or "unknown version", essential=True)


def _kernel() -> tuple[Finding, ...]:
    """The compiled attention kernel, and the C compiler that an installation compiles it with."""
    try:
        from hushlm.entropy.kernels import library
        from hushlm.entropy.kernels.build import find_compiler
    except (ImportError, OSError):
        return (Finding("attention kernel", False, "", "It needs torch."),)
    problem, compiler = library.problem(), find_compiler()
    if problem is None:
        kernel = Finding("attention kernel", True, "compiled")
    else:
        kernel = Finding("attention kernel", False, "plain torch, slower but with the same results", f"{problem[:1].upper()}{problem[1:]}.")
    return kernel, Finding(
        "C compiler",
        bool(compiler),
        " ".join(compiler),
        "" if compiler else "Needed only to compile the attention kernel: install one, for example gcc.",
    )


def _engine() -> Finding:
    problem = engine_problem()
    return Finding("two-party engine", problem is None, f"SPU {installed_version('spu')}" if problem is None else "", problem or "")


def _extra(name: str) -> Finding:
    # The engine's packages have a line of their own.
    missing = [package for package in missing_packages(name) if package not in ENGINE_PACKAGES]
    if not missing:
        return Finding(f"extra {name}", True, "complete")
    return Finding(f"extra {name}", False, f"without {', '.join(missing)}", f"If you need it: pip install 'hushlm[{name}]'.")
