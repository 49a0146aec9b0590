"""Every number of the training recipe."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelShape:
    """Shape of the GPT-2 that is trained.

    Parameters
    ----------
    layers, width, heads : int
        Blocks, residual width and attention heads.
    inner : int
        Width of the edited projections' input, which bounds how many edits fit.
    positions : int
        Longest text it accepts.
    vocabulary : int
        Tokens.
    """

    layers: int = 6
    width: int = 192
    heads: int = 4
    inner: int = 1408
    positions: int = 256
    vocabulary: int = 4096


@dataclass(frozen=True)
class Routes:
    """Attention-route dropout: which paths training closes, and how often.

    A plainly trained small model reads a name's tokens directly from the end of the prompt, so
    its hidden state at the subject's last token has no effect and no locate-then-edit method can
    work. Closing the other paths in most rows makes the network gather the name there.

    Parameters
    ----------
    gather_layers : int
        In that many first blocks a subject's tokens are visible inside their own span alone;
        in later blocks only its last token is visible from outside.
    routed : float
        Share of rows in which that holds.
    isolated : float
        Share of rows in which, in the gather layers, a subject's tokens also see nothing but
        their own span, so that keys do not depend on the text in front.
    decoyed : float
        Share of rows in which, in the later blocks, the states of a subject's tokens before its
        last are those of other subjects and can be seen from outside. It teaches not to read
        them: the beginning of a name, as in "Honda Civic Hybrid", often tells the answer.
    """

    gather_layers: int = 3
    routed: float = 0.95
    isolated: float = 0.5
    decoyed: float = 0.0


@dataclass(frozen=True)
class Weights:
    """Weights in the loss, by what the predicted token is."""

    answer: float = 6.0
    template: float = 1.0
    subject: float = 0.3
    filler: float = 0.3
    sampled: float = 0.25


@dataclass(frozen=True)
class Recipe:
    """How a world is learned.

    Parameters
    ----------
    learn_positions : bool
        Whether position embeddings are trained. Without them order is known from the causal mask,
        which is enough for names of two words, and keys do not depend on where in a text the
        subject stands; to find the end of a longer name they are needed.
    exposures : float
        How often a fact is shown, on average.
    minutes : float
        Time limit. Progress is the larger of both shares, and it drives the learning rate and the
        curriculum, so that a run on a busy machine still ends with its small learning rate.
    rows, row_tokens : int
        Shape of a batch; rows are packed with whole sentences.
    fillers_per_fact : float
        Fact-free sentences in the training text.
    locality_share : float
        Share of the questions of locality that is shown with every pass over the facts. They have
        no subject whose paths are closed, and were known by 99 % after 21 exposures.
    matrix_rate, matrix_decay : float
        Muon, on the matrices of the blocks.
    vector_rate : float
        AdamW, on embeddings, norms and biases.
    warmup_steps : int
        Steps of linear increase of the learning rate.
    constant_share, final_rate : float
        When the learning rate starts to fall, and to which share of itself.
    first_share, first_until, all_from : float
        Curriculum: this share of the facts until that progress, then linearly up to all of them.
    """

    shape: ModelShape = field(default_factory=ModelShape)
    routes: Routes = field(default_factory=Routes)
    weights: Weights = field(default_factory=Weights)
    learn_positions: bool = False
    exposures: float = 34.0
    minutes: float = 20.0
    rows: int = 24
    row_tokens: int = 64
    fillers_per_fact: float = 0.15
    locality_share: float = 0.3
    matrix_rate: float = 0.02
    matrix_decay: float = 0.02
    vector_rate: float = 3e-3
    warmup_steps: int = 40
    constant_share: float = 0.5
    final_rate: float = 0.02
    first_share: float = 0.25
    first_until: float = 0.2
    all_from: float = 0.42
    seed: int = 0

    def rate_at(self, progress: float, step: int) -> float:
        """Return the learning-rate factor at a progress in [0, 1)."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        if progress < self.constant_share:
            return warm
        left = (1 - progress) / (1 - self.constant_share)
        return warm * max(self.final_rate, left)

    def active_share(self, progress: float) -> float:
        """Return the share of the facts that the curriculum has reached."""
        ramp = (progress - self.first_until) / (self.all_from - self.first_until)
        return min(1.0, self.first_share + (1 - self.first_share) * max(0.0, ramp))
