"""The two-party engine.

Only this folder imports the library for multi-party computation (MPC), and only when a program is compiled or a link is opened.
"""

from hushlm.private.engine.channel import Channel
from hushlm.private.engine.compiler import Executable, compile_program
from hushlm.private.engine.engine_settings import EngineSettings, Party, TlsFiles
from hushlm.private.engine.mpc_library import engine_version, load_engine
from hushlm.private.engine.program_store import ProgramStore
from hushlm.private.engine.runtime import Engine
from hushlm.private.engine.traffic import OperationTraffic, Traffic

__all__ = [
    "Channel",
    "Engine",
    "EngineSettings",
    "Executable",
    "OperationTraffic",
    "Party",
    "ProgramStore",
    "TlsFiles",
    "Traffic",
    "compile_program",
    "engine_version",
    "load_engine",
]
