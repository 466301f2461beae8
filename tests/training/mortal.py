"""`hushlm train` as run by torchrun in test_ranks.py; rank 1 kills itself in the middle of a step if the environment says so."""

from __future__ import annotations

import os
import signal
import sys

import hushlm.training.gradient as gradient
from hushlm.cli.main import main
from hushlm.training.team import Team

if __name__ == "__main__":
    step = int(os.environ.get("KILL_RANK_1_AT_STEP", "0"))
    begun = 0
    begin_step = Team.begin_step

    def begin(team: Team, passes: int) -> None:
        global begun
        begun += 1
        if begun == step and team.world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        begin_step(team, passes)

    assert gradient.Team is Team
    Team.begin_step = begin  # type: ignore[method-assign, assignment]
    sys.exit(main(["train", *sys.argv[1:]]))
