"""The Flower ServerApp: run one strategy, or several on the same clients and records."""

from __future__ import annotations

import time
from pathlib import Path

from filelock import FileLock, Timeout
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fleke_flwr.apps.experiment import Experiment
from fleke_flwr.artifacts import write_json
from fleke_flwr.config import RunConfig
from fleke_flwr.errors import FlekeError, RunError

app = ServerApp()
LOCK = ".lock"


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run config describes.

    ``done.json`` appears in the output directory last of all, ``failure.json`` when the run ends
    with an error that has an explanation. One run at a time writes into a directory: a run that is
    resumed may turn out to be alive.
    """
    given = context.run_config.get("output-dir")
    directory = Path(str(given) if given else f"outputs/{time.strftime('%Y%m%d-%H%M%S')}").resolve()
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory / LOCK, timeout=0):
            config = RunConfig.from_flat({**context.run_config, "output-dir": str(directory)})
            Experiment(config, grid, directory).run()
            write_json(directory / "done.json", {"status": "completed"})
    except Timeout:
        raise RunError(f"{directory}: another run writes into it; wait for it, or end it") from None
    except FlekeError as error:
        write_json(directory / "failure.json", {"error": str(error), "kind": type(error).__name__})
        raise
