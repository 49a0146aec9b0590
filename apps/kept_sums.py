"""The file ``statistics.safetensors`` of a run, from which edits can be withdrawn."""

from __future__ import annotations

from pathlib import Path

from fleke_flwr.errors import DataError
from fleke_flwr.progress import Progress
from fleke_flwr.state import EditState
from fleke_flwr.strategies.federated import FederatedStrategy
from fleke_flwr.strategies.kept_sums import KeptSums

FILE = "statistics.safetensors"
# Dense sums grow with the square of the width; beyond this they are not written.
_LARGEST = 2 * 2**30


def keep_sums(strategy: FederatedStrategy, folder: Path, progress: Progress) -> None:
    """Write the sums of a finished strategy, if it has any that edits can be withdrawn from."""
    sums: KeptSums | None = getattr(strategy, "kept_sums", None)
    if sums is None:
        return
    if not sums.is_factored and sums.num_bytes > _LARGEST:
        size = sums.num_bytes / 2**30
        progress.line(f"{FILE} would take {size:.1f} GiB and is not written; encoding = factors")
        return
    write_sums(folder, sums, strategy.state)


def write_sums(folder: Path, sums: KeptSums, state: EditState) -> None:
    """Write sums and say which model they give."""
    sums.save(folder / FILE, {"base": state.base, "state": state.fingerprint})


def read_sums(folder: Path, state: EditState) -> KeptSums:
    """Read the sums behind a state.

    Raises
    ------
    DataError
        If there are none, or they belong to another state.
    """
    path = folder / FILE
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; the run did not keep its sums (older version, or dense sums "
            "beyond 2 GiB): run again, with encoding = factors"
        )
    sums, about = KeptSums.load(path)
    if (about["base"], about["state"]) != (state.base, state.fingerprint):
        raise DataError(
            f"{path}: the sums of state {about['state']}, and edits.safetensors beside it is state "
            f"{state.fingerprint}: a withdrawal was broken off, or a file was replaced; run again"
        )
    return sums
