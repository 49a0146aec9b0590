"""The Flower ServerApp: run one strategy, or several on the same clients and records."""

from __future__ import annotations

import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fleke_flwr.apps.experiment import Experiment
from fleke_flwr.artifacts import write_json
from fleke_flwr.config import RunConfig
from fleke_flwr.errors import FlekeError

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the experiment that the run config describes.

    ``done.json`` appears in the output directory last of all, ``failure.json`` when the run ends
    with an error that has an explanation.
    """
    given = context.run_config.get("output-dir")
    directory = Path(str(given) if given else f"outputs/{time.strftime('%Y%m%d-%H%M%S')}").resolve()
    try:
        config = RunConfig.from_flat({**context.run_config, "output-dir": str(directory)})
        Experiment(config, grid, directory).run()
    except FlekeError as error:
        write_json(directory / "failure.json", {"error": str(error), "kind": type(error).__name__})
        raise
    write_json(directory / "done.json", {"status": "completed"})
