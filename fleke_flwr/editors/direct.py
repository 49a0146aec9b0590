"""What an editor of any kind writes when its requests are all that there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fleke_flwr.editors.base import EditMethod, Editor, StatisticsEditor, UpdateEditor
from fleke_flwr.editors.modes import solve_groups
from fleke_flwr.errors import ConfigError
from fleke_flwr.linalg import Prior
from fleke_flwr.models import EditableModel
from fleke_flwr.progress import Progress
from fleke_flwr.types import EditRequest, LayerUpdate


def direct_updates(
    editor: EditMethod,
    model: EditableModel,
    requests: Sequence[EditRequest],
    priors: Mapping[str, Prior],
    progress: Progress,
) -> dict[str, LayerUpdate]:
    """Return the updates of an editor without target vectors, in float64.

    Parameters
    ----------
    editor : EditMethod
        A :class:`StatisticsEditor`, whose statistics are solved, or an :class:`UpdateEditor`.
    model : EditableModel
        In the state that the requests are edited on; left unchanged.
    requests : Sequence[EditRequest]
        May be empty.
    priors : Mapping[str, Prior]
        By module.
    progress : Progress
        Passed on.

    Raises
    ------
    ConfigError
        If the editor is of neither kind.
    """
    if isinstance(editor, StatisticsEditor):
        statistics = editor.statistics(model, requests, progress)
        return solve_groups(statistics, priors, editor.spec.mode)
    if isinstance(editor, UpdateEditor):
        return editor.updates(model, requests, priors, progress)
    raise ConfigError(
        f"editor {editor.spec.editor!r} is a {type(editor).__name__}, which gives neither target "
        "vectors nor statistics nor updates; derive it from Editor, StatisticsEditor or "
        "UpdateEditor"
    )


def located(editor: EditMethod) -> Editor:
    """Return an editor that has target vectors.

    Raises
    ------
    ConfigError
        If it has none.
    """
    if isinstance(editor, Editor):
        return editor
    raise ConfigError(
        f"editor {editor.spec.editor!r} has no target vectors, which this needs; "
        "choose memit, pmet, emmet, alphaedit or adaple"
    )
