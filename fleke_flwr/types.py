"""The central types: what is asked for, what travels, what changes a weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fleke_flwr.errors import PayloadError, RequestError


@dataclass(frozen=True)
class EditRequest:
    """One wanted correction: the subject's answer to the prompt becomes the target.

    Parameters
    ----------
    case_id : str
        Name of the record, unique inside a data set.
    prompt : str
        Relation template with exactly one ``{}`` where the subject goes.
    subject : str
        The entity the fact is about.
    target : str
        The new object, without a leading space.
    original : str
        The object the model gives so far; empty when unknown.
    relation : str
        Relation identifier; empty when unknown.

    Raises
    ------
    RequestError
        If the prompt has not exactly one slot, or subject or target is empty.
    """

    case_id: str
    prompt: str
    subject: str
    target: str
    original: str = ""
    relation: str = ""

    def __post_init__(self) -> None:
        """Refuse a request that no editor could carry out."""
        where = f"edit request {self.case_id!r} with prompt {self.prompt!r}"
        if self.prompt.count("{}") != 1:
            raise RequestError(
                f"{where}: found {self.prompt.count('{}')} slots '{{}}' for the subject; "
                "write exactly one"
            )
        if not self.subject.strip():
            raise RequestError(f"{where}: the subject is empty; name the entity to edit")
        if not self.target.strip():
            raise RequestError(f"{where}: the target is empty; give the new object")

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return self.prompt.replace("{}", self.subject)


@dataclass(frozen=True)
class Probe:
    """A prompt and the answer that counts as right."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class EvalCase:
    """An edit request with the probes that judge it; editors never see the probes.

    Parameters
    ----------
    request : EditRequest
        The edit.
    paraphrases : tuple[str, ...]
        Other phrasings of the edited fact.
    neighbors : tuple[str, ...]
        Prompts about other subjects whose answer is the original object and must stay it.
    attributes : tuple[str, ...]
        Prompts about other subjects whose answer already is the new object.
    generations : tuple[str, ...]
        Open prompts about the subject for free generation.
    same_subject : tuple[Probe, ...]
        Other facts of the edited subject, which must stay as they are.
    references : tuple[str, ...]
        Texts about subjects that truly have the new object, for the reference score.
    locality : tuple[Probe, ...]
        Prompts about anything else with the answer that must stay (zsRE's ``loc``).
    owner : str
        Who holds the record, for the partition ``natural``; empty when unknown.
    rival : str
        Another answer that somebody contradicts the edit with; empty when the source has none.
    """

    request: EditRequest
    paraphrases: tuple[str, ...] = ()
    neighbors: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    generations: tuple[str, ...] = ()
    same_subject: tuple[Probe, ...] = ()
    references: tuple[str, ...] = ()
    locality: tuple[Probe, ...] = ()
    owner: str = ""
    rival: str = ""


@dataclass(frozen=True)
class LayerStatistics:
    """Additive sufficient statistics of a batch of edits for one group of projections.

    With keys ``K (d_in, n)`` and residuals ``R (d_out, n)`` these are ``S = K K^T`` and
    ``B = R K^T``, held as factors ``U (d_in, r)``, ``F (d_out, r)`` with ``S = U U^T`` and
    ``B = F U^T``, or dense. Several projections edited together (``joint``) form one group
    whose keys are stacked, so ``d_in`` is the sum of their input widths.

    What is withdrawn from factors stays beside them as columns of sign -1, so that
    ``S = U diag(signs) U^T`` and ``B = F diag(signs) U^T``.

    Parameters
    ----------
    count : int
        Number of edits behind the statistics.
    keys : Tensor or None
        ``U (d_in, r)``; ``r = 0`` is legal.
    residuals : Tensor or None
        ``F (d_out, r)``.
    gram : Tensor or None
        ``S (d_in, d_in)`` in the dense form.
    cross : Tensor or None
        ``B (d_out, d_in)`` in the dense form.
    signs : Tensor or None
        ``(r,)`` of +1 and -1 beside the factors; ``None`` when nothing was withdrawn.

    Raises
    ------
    PayloadError
        If neither form is complete or the shapes do not fit.
    """

    count: int
    keys: Tensor | None = None
    residuals: Tensor | None = None
    gram: Tensor | None = None
    cross: Tensor | None = None
    signs: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that exactly one form is present and consistent."""
        factored = self.keys is not None and self.residuals is not None
        dense = self.gram is not None and self.cross is not None
        if factored == dense:
            raise PayloadError("statistics need either factors (U, F) or dense (S, B), not both")
        if self.keys is not None and self.residuals is not None:
            if self.keys.ndim != 2 or self.residuals.shape[1:] != self.keys.shape[1:]:
                raise PayloadError(
                    f"factors do not fit: U is {tuple(self.keys.shape)}, "
                    f"F is {tuple(self.residuals.shape)}; both need the same number of columns"
                )
        elif self.gram is not None and self.cross is not None:
            width = self.gram.shape[0]
            if self.gram.shape != (width, width) or self.cross.shape[1:] != (width,):
                raise PayloadError(
                    f"dense statistics do not fit: S is {tuple(self.gram.shape)}, "
                    f"B is {tuple(self.cross.shape)}; need (d_in, d_in) and (d_out, d_in)"
                )
        if self.signs is not None:
            self._check_signs(self.signs)

    def _check_signs(self, signs: Tensor) -> None:
        if self.keys is None:
            raise PayloadError("signs belong to factors; dense statistics carry them in S and B")
        if signs.shape != self.keys.shape[1:] or not bool((signs.abs() == 1).all()):
            raise PayloadError(
                f"signs of shape {tuple(signs.shape)} for {self.keys.shape[1]} columns; "
                "give +1 or -1 for every column"
            )

    @property
    def is_factored(self) -> bool:
        """Whether the factors are held."""
        return self.keys is not None

    @property
    def d_in(self) -> int:
        """Width of the (stacked) keys."""
        tensor = self.keys if self.keys is not None else self.gram
        assert tensor is not None  # one of the two by construction
        return int(tensor.shape[0])

    @property
    def d_out(self) -> int:
        """Width of the residuals."""
        tensor = self.residuals if self.residuals is not None else self.cross
        assert tensor is not None  # one of the two by construction
        return int(tensor.shape[0])

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return ``(U, F)``; refuse when only the dense form is known, or something is withdrawn.

        Raises
        ------
        PayloadError
            If ``U U^T`` and ``F U^T`` are not what these statistics stand for.
        """
        if self.signs is not None:
            raise PayloadError(
                "something was withdrawn from these statistics: their factors hold only together "
                "with their signs; take signed_factors()"
            )
        keys, residuals, _ = self.signed_factors()
        return keys, residuals

    def signed_factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``(U, F, signs)``, all signs +1 when nothing was withdrawn.

        Raises
        ------
        PayloadError
            If only the dense form is known.
        """
        if self.keys is None or self.residuals is None:
            raise PayloadError("these statistics are dense; factors are not known")
        signs = self.keys.new_ones(self.keys.shape[1]) if self.signs is None else self.signs
        return self.keys, self.residuals, signs

    def sums(self) -> tuple[Tensor, Tensor]:
        """Return ``(S, B)``, from the factors if need be."""
        if self.gram is not None and self.cross is not None:
            return self.gram, self.cross
        keys, residuals, signs = self.signed_factors()
        right = (keys if self.signs is None else keys * signs).T
        return keys @ right, residuals @ right

    def __add__(self, other: LayerStatistics) -> LayerStatistics:
        """Pool two batches: sums of ``S`` and ``B``, or concatenated factors."""
        return self._combine(other, 1)

    def __sub__(self, other: LayerStatistics) -> LayerStatistics:
        """Withdraw a batch that was pooled before; factors stay factors, with signs."""
        return self._combine(other, -1)

    def _combine(self, other: LayerStatistics, sign: int) -> LayerStatistics:
        count = self.count + sign * other.count
        if self.is_factored and other.is_factored:
            keys, residuals, signs = self.signed_factors()
            other_keys, other_residuals, other_signs = other.signed_factors()
            joined = torch.cat([signs, other_signs * sign])
            return LayerStatistics(
                count,
                keys=torch.cat([keys, other_keys], dim=1),
                residuals=torch.cat([residuals, other_residuals], dim=1),
                signs=joined if bool((joined < 0).any()) else None,
            )
        (gram, cross), (other_gram, other_cross) = self.sums(), other.sums()
        return LayerStatistics(
            count, gram=gram + sign * other_gram, cross=cross + sign * other_cross
        )


@dataclass(frozen=True)
class LayerUpdate:
    """A change of one projection in math orientation ``(d_out, d_in)``, kept as a product.

    Parameters
    ----------
    left : Tensor
        ``(d_out, r)``, or the whole change when ``right`` is ``None``.
    right : Tensor or None
        ``(r, d_in)``.
    """

    left: Tensor
    right: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that the product is defined."""
        if self.right is not None and self.left.shape[1] != self.right.shape[0]:
            raise PayloadError(
                f"update factors do not fit: left {tuple(self.left.shape)}, "
                f"right {tuple(self.right.shape)}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """``(d_out, d_in)``."""
        columns = self.left if self.right is None else self.right
        return int(self.left.shape[0]), int(columns.shape[1])

    @property
    def numel(self) -> int:
        """How many numbers the current form holds."""
        return self.left.numel() + (0 if self.right is None else self.right.numel())

    def dense(self) -> Tensor:
        """Return the ``(d_out, d_in)`` matrix."""
        return self.left if self.right is None else self.left @ self.right

    def scaled(self, factor: float) -> LayerUpdate:
        """Multiply by a number."""
        return LayerUpdate(self.left * factor, self.right)

    def compact(self) -> LayerUpdate:
        """Return whichever of product and matrix holds fewer numbers."""
        d_out, d_in = self.shape
        return LayerUpdate(self.dense()) if self.numel > d_out * d_in else self

    def to(self, dtype: torch.dtype) -> LayerUpdate:
        """Convert the numbers."""
        return LayerUpdate(
            self.left.to(dtype), None if self.right is None else self.right.to(dtype)
        )

    def __add__(self, other: LayerUpdate) -> LayerUpdate:
        """Add two changes of the same projection; products are concatenated."""
        if self.shape != other.shape:
            raise PayloadError(f"cannot add updates of shapes {self.shape} and {other.shape}")
        if self.right is None or other.right is None:
            return LayerUpdate(self.dense() + other.dense())
        return LayerUpdate(
            torch.cat([self.left, other.left], dim=1), torch.cat([self.right, other.right], dim=0)
        ).compact()


def add_updates(
    total: Mapping[str, LayerUpdate], new: Mapping[str, LayerUpdate]
) -> dict[str, LayerUpdate]:
    """Add updates module by module; a module missing on one side counts as zero there."""
    result = dict(total)
    for module, update in new.items():
        result[module] = result[module] + update if module in result else update
    return result


GROUP_SEPARATOR = "+"


def group_name(modules: Sequence[str]) -> str:
    """Name the group of projections that one set of statistics belongs to."""
    return GROUP_SEPARATOR.join(modules)


def group_modules(name: str) -> tuple[str, ...]:
    """Return the projections of a named group, in order."""
    return tuple(name.split(GROUP_SEPARATOR))


@dataclass(frozen=True)
class MemoryVectors:
    """What a client knows of edits after optimising them, without their text (FedLEKE's MKVs).

    Parameters
    ----------
    targets : Tensor
        ``z (n, d)``: what the last edited block should put out at the subjects' last tokens.
    hidden : Tensor
        ``h (n, d)``: what it puts out on the base model.
    keys : Mapping[str, Tensor]
        ``(n, d_in)`` by module: inputs of the edited projections on the base model.

    Raises
    ------
    PayloadError
        If the tensors do not have one row per edit each.
    """

    targets: Tensor
    hidden: Tensor
    keys: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        """Check that all tensors have the same number of rows."""
        shapes = [self.targets.shape, self.hidden.shape, *(k.shape for k in self.keys.values())]
        if any(len(shape) != 2 or shape[0] != shapes[0][0] for shape in shapes):
            raise PayloadError(
                f"memory vectors do not fit: shapes {[tuple(shape) for shape in shapes]}; "
                "every tensor needs one row per edit"
            )
        if shapes[0] != shapes[1]:
            raise PayloadError(
                f"memory vectors do not fit: targets {tuple(shapes[0])}, hidden {tuple(shapes[1])}"
            )

    def __len__(self) -> int:
        """Return the number of edits."""
        return len(self.targets)

    def rows(self, index: Tensor) -> MemoryVectors:
        """Take some edits, by position or by mask."""
        keys = {module: matrix[index] for module, matrix in self.keys.items()}
        return MemoryVectors(self.targets[index], self.hidden[index], keys)

    def __add__(self, other: MemoryVectors) -> MemoryVectors:
        """Append other edits of the same model."""
        if set(self.keys) != set(other.keys):
            raise PayloadError(f"keys of {sorted(self.keys)} and of {sorted(other.keys)}")
        return MemoryVectors(
            torch.cat([self.targets, other.targets]),
            torch.cat([self.hidden, other.hidden]),
            {
                module: torch.cat([matrix, other.keys[module]])
                for module, matrix in self.keys.items()
            },
        )


@dataclass(frozen=True)
class EditPayload:
    """What one client contributes to one exchange.

    Parameters
    ----------
    base : str
        Fingerprint of the client's unedited base model.
    state : str
        Fingerprint of the shared edit state the client worked on.
    editor, mode : str
        How the contribution was made.
    num_edits : int
        Number of edits behind it; 0 is legal.
    statistics : Mapping[str, LayerStatistics]
        By group name (see :func:`group_name`); empty when updates are sent.
    updates : Mapping[str, LayerUpdate]
        By module name; empty when statistics are sent.
    """

    base: str
    state: str
    editor: str
    mode: str
    num_edits: int
    statistics: Mapping[str, LayerStatistics] = field(default_factory=dict)
    updates: Mapping[str, LayerUpdate] = field(default_factory=dict)
