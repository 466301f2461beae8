"""The command line is frozen: an option is added on purpose, with `python tests/cli/cli_surface.py`."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.cli import cli_surface

import hushlm
from hushlm.cli.main import COMMANDS, load_command, main, summaries
from hushlm.config import RunConfig
from hushlm.extras import missing_packages


def test_the_surface_is_the_recorded_one() -> None:
    recorded = cli_surface.GOLDEN.read_text()
    assert cli_surface.render() == recorded, "the command line changed: if on purpose, run `python tests/cli/cli_surface.py`"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_describes_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    text = capsys.readouterr().out
    assert exit_.value.code == 0
    assert text.startswith(f"usage: hushlm {name}")
    assert "<class" not in text
    parser = cli_surface.build_parser(name, load_command(name))
    for action in parser._actions:
        if action.dest not in cli_surface.COMMON and not hasattr(action, "_load_config"):
            assert action.help, f"{name} does not say what {action.dest} is"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_summary_of_one_line(name: str) -> None:
    summary = summaries()[name]
    assert summary.endswith((".", "?"))
    assert 20 < len(summary) < 110
    assert summary == (load_command(name).__doc__ or "").partition("\n")[0]


def test_train_takes_every_field_of_a_run() -> None:
    import inspect

    parameters = inspect.signature(load_command("train")).parameters
    defaults = RunConfig()
    for field in RunConfig.__dataclass_fields__:
        assert parameters[field].default == getattr(defaults, field)


def _imported_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(' '.join(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import hushlm; hushlm.__version__; dir(hushlm)",
        "from hushlm.cli.main import main; main(['--help'])",
        "from hushlm.cli.main import main; main(['--version'])",
        "from hushlm.cli.main import main; main(['trian'])",
        "from hushlm.cli.main import main; main(['architectures', '--json'])",
        "from hushlm.cli.main import main; main(['cost', 'SM2+R', '--json'])",
        "from hushlm import ModelShape, parse, prefill_plan, flops; flops(parse('SM'), ModelShape())",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(statement: str) -> None:
    assert not {"torch", "jax", "spu", "matplotlib", "transformers"} & _imported_after(statement)


def test_every_public_name_exists() -> None:
    of_extras = {"private": {"Client", "PrivateServer"}, "hf": {"EntropyTrainer"}}
    absent = {name for extra, names in of_extras.items() if missing_packages(extra) for name in names}
    for name in set(vars(hushlm)["__all__"]) - absent:
        assert getattr(hushlm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        hushlm.trian  # type: ignore[attr-defined]  # noqa: B018


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hushlm {hushlm.__version__}\n"
