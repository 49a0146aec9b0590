"""What every family's row promises, and what happens to a model without one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    StableLmConfig,
    StableLmForCausalLM,
)

from fleke_flwr.config import ModelConfig
from fleke_flwr.editors.memit import Memit
from fleke_flwr.editors.rows import key_rows, target_rows
from fleke_flwr.errors import ModelError, RequestError, UnsupportedModelError
from fleke_flwr.models import FAMILIES, EditableModel, Family, families, family_of, load_model
from fleke_flwr.models.attention import kinds_of
from fleke_flwr.models.forward import run_blocks, segment
from fleke_flwr.models.placement import moved, placed, take
from fleke_flwr.state import applied
from fleke_flwr.types import EditRequest, LayerUpdate
from tests.conftest import save_tiny, train_tokenizer
from tests.editors.cases import awkward_requests
from tests.editors.reference import spec_of
from tests.families import TINY, WINDOW, build

ROW = Family("gpt2", "transformer.h", "mlp.c_proj", "transformer.ln_f", "lm_head")
LoadTiny = Callable[..., EditableModel]
TinyFamily = Callable[[str], Path]


@pytest.fixture(params=["gpt2", "llama", *TINY])
def model(
    request: pytest.FixtureRequest, tiny_family: TinyFamily, load_tiny: LoadTiny
) -> EditableModel:
    return load_tiny(tiny_family(request.param))


def test_every_row_has_a_tiny_model() -> None:
    built = {name.removesuffix("_sequential") for name in TINY} | {"gpt2", "llama"}
    assert built == set(FAMILIES)


@torch.no_grad()
def test_logits_are_those_of_the_whole_model(model: EditableModel) -> None:
    ids = torch.arange(1, 21)[None]
    whole = model.model(ids, output_hidden_states=True)
    torch.testing.assert_close(model.logits(whole.hidden_states[-1]), whole.logits)


@torch.no_grad()
def test_right_padding_and_explicit_positions_change_nothing(model: EditableModel) -> None:
    torch.manual_seed(0)
    ids = torch.randint(1, 300, (2, 17))
    lengths = [9, 17]
    hidden, part = segment(model, ids, torch.arange(17).expand(2, 17), None)
    hidden, _ = run_blocks(model, hidden, part, 0, model.num_layers)
    found = model.logits(model.final_norm(hidden))
    for row, length in enumerate(lengths):
        alone = model.model(ids[row : row + 1, :length]).logits[0]
        torch.testing.assert_close(found[row, :length], alone, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_float64_is_float64_throughout(model: EditableModel) -> None:
    """A change far below the precision of float32 comes through, and linearly."""
    hidden, part = segment(model, torch.arange(1, 9)[None], torch.arange(8)[None], None)
    direction = torch.randn(hidden.shape, dtype=hidden.dtype, generator=torch.manual_seed(2))

    def response(size: float) -> torch.Tensor:
        output, _ = run_blocks(model, hidden + size * direction, part, 0, model.num_layers)
        logits: torch.Tensor = model.logits(model.final_norm(output))
        return logits

    small, large = (response(size) - response(-size) for size in (1e-9, 2e-9))
    error = (2 * small - large).norm() / large.norm()
    assert float(error) < 1e-3


@pytest.mark.parametrize("name", ["mistral", "gemma3_text"])
@torch.no_grad()
def test_a_window_hides_what_lies_behind_it(
    name: str, tiny_family: TinyFamily, load_tiny: LoadTiny
) -> None:
    model = load_tiny(tiny_family(name))
    ids = torch.arange(1, 21)[None]
    other = ids.clone()
    other[0, 0] = 99
    outputs = []
    for tokens in (ids, other):
        hidden, part = segment(model, tokens, torch.arange(20)[None], None)
        outputs.append(run_blocks(model, hidden, part, 0, 1)[0][0])
    same = (outputs[0] == outputs[1]).all(1)
    assert not same[:WINDOW].any()
    assert same[WINDOW:].all()


def test_parts_and_weights_have_names(model: EditableModel) -> None:
    name = model.module_name(2)
    d_out, d_in = model.shape_of(name)
    assert (d_out, d_in) == (model.d_model, model.input_width(2))
    assert torch.equal(model.weight_of(name), model.weight(2))
    assert model.part(2, "block") is model.blocks[2]
    assert model.part(2, "attention") in list(model.blocks[2].modules())
    assert model.projection(2) in list(model.part(2, "mlp").modules())
    with pytest.raises(ModelError, match="layers are 0 to 3"):
        model.part(4, "block")
    with pytest.raises(ModelError, match="no weight nowhere"):
        model.weight_of("nowhere")


def test_an_unknown_family_is_told_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    config = StableLmConfig(
        vocab_size=50, hidden_size=32, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    unknown = StableLmForCausalLM(config)
    with pytest.raises(UnsupportedModelError, match=r"families\.py") as raised:
        family_of(unknown)
    pasted = eval(str(raised.value).partition(":\n")[2], {"Family": Family})
    assert pasted.blocks == "model.layers"
    assert pasted.projection == "mlp.down_proj"
    assert (pasted.final_norm, pasted.head) == ("model.norm", "lm_head")
    assert (pasted.attention, pasted.mlp) == ("self_attn", "mlp")
    monkeypatch.setitem(FAMILIES, "stablelm", pasted)
    assert family_of(unknown) is pasted


@pytest.mark.parametrize("name", [name for name in TINY if name not in ("gpt_neox_sequential",)])
def test_the_guessed_row_agrees_with_ours(
    name: str, model_of: Callable[[str], EditableModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(name)
    ours = model.family
    monkeypatch.delitem(FAMILIES, ours.model_type)
    with pytest.raises(UnsupportedModelError) as raised:
        family_of(model.model)
    guessed = eval(str(raised.value).partition(":\n")[2], {"Family": Family})
    for place in ("blocks", "projection", "final_norm", "head", "attention", "mlp", "cache"):
        assert getattr(guessed, place) == getattr(ours, place)


def test_a_row_of_another_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    own = EntryPoint("gpt2", f"{__name__}:ROW", families.ENTRY_POINTS)
    wrong = EntryPoint("llama", f"{__name__}:WINDOW", families.ENTRY_POINTS)
    monkeypatch.setattr(families, "entry_points", lambda group: [own, wrong])
    monkeypatch.delitem(FAMILIES, "gpt2")
    monkeypatch.delitem(FAMILIES, "llama")
    monkeypatch.setattr(EntryPoint, "load", lambda self: globals()[self.attr])
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=2, n_layer=1, vocab_size=9))
    assert family_of(model) is ROW
    model.config.model_type = "llama"
    with pytest.raises(UnsupportedModelError, match="is no Family"):
        family_of(model)


def saved(model: PreTrainedModel, folder: Path) -> EditableModel:
    save_tiny(folder, model, train_tokenizer(add_bos=False))
    return load_model(ModelConfig(name=str(folder)))


def test_a_row_that_forgets_a_scale_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tokenizer = train_tokenizer(add_bos=False)
    config = CohereConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, logit_scale=0.25, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = CohereForCausalLM(config)
    with pytest.raises(UnsupportedModelError) as raised:
        family_of(model)
    pasted = eval(str(raised.value).partition(":\n")[2], {"Family": Family})
    monkeypatch.setitem(FAMILIES, "cohere", pasted)
    with pytest.raises(UnsupportedModelError, match="logits differ by 3 of theirs"):
        saved(model, tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"projection": "mlp.up_proj"}, "puts out 45 numbers, not 32"),
        ({"norm_2": "input_layernorm"}, "logits differ"),
        ({"parallel": True}, "logits differ"),
        ({"cache": "layer_past"}, "correct the cache"),
    ],
)
def test_a_wrong_row_is_refused(
    changes: dict[str, object],
    said: str,
    tiny_family: TinyFamily,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    copied = shutil.copytree(tiny_family("mistral"), tmp_path / "copied")
    monkeypatch.setitem(FAMILIES, "mistral", replace(FAMILIES["mistral"], **changes))
    with pytest.raises(UnsupportedModelError, match=said):
        load_model(ModelConfig(name=str(copied)))


@pytest.fixture
def model_of(tiny_family: TinyFamily, load_tiny: LoadTiny) -> Callable[[str], EditableModel]:
    return lambda name: load_tiny(tiny_family(name))


def test_a_wrong_cache_argument_is_noticed(
    model_of: Callable[[str], EditableModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("gpt_neox")
    wrong = replace(model.family, cache="past_key_values")
    monkeypatch.setattr(model, "family", wrong)
    hidden, part = segment(model, torch.tensor([[1, 2]]), torch.tensor([[0, 1]]), None)
    with pytest.raises(UnsupportedModelError, match="correct the cache"):
        run_blocks(model, hidden, part, 0, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"do_layer_norm_before": False}, "do_layer_norm_before = False"),
        ({"_remove_final_layer_norm": True}, "_remove_final_layer_norm = True"),
        ({"word_embed_proj_dim": 16}, "width 16 and its blocks are 32 wide"),
    ],
)
def test_variants_that_cannot_be_edited_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(UnsupportedModelError, match=said):
        family_of(build("opt", train_tokenizer(add_bos=True), **changes))


def test_other_attention_is_refused() -> None:
    config = build("qwen3", train_tokenizer(add_bos=False)).config
    config.layer_types = ["full_attention", "chunked_attention"]
    with pytest.raises(UnsupportedModelError, match="with chunked_attention"):
        kinds_of(config)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_narrow_formats_are_edited_and_restored(
    name: str, dtype: str, tiny_family: TinyFamily, load_tiny: LoadTiny
) -> None:
    model = load_tiny(tiny_family(name), dtype=dtype)
    editor = Memit(spec_of(model, layers=(1,), steps=2))
    requests = awkward_requests()[:2]
    targets = editor.targets(model, requests)
    readings = editor.readings(model, requests, [1])
    assert bool(targets.vectors.isfinite().all())
    assert readings.keys[1].dtype == torch.float64
    module = model.module_name(1)
    before = model.weight_of(module).clone()
    residuals = targets.vectors.T.double() - readings.hidden
    update = LayerUpdate(residuals, torch.linalg.pinv(readings.keys[1]))
    with applied(model.model, {module: update.to(torch.float32)}):
        assert not torch.equal(model.weight_of(module), before)
    assert torch.equal(model.weight_of(module), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device beside the CPU")
def test_the_head_may_lie_on_another_device(tiny_family: TinyFamily, tmp_path: Path) -> None:
    from accelerate import dispatch_model

    path = shutil.copytree(tiny_family("llama"), tmp_path / "split")
    model = load_model(ModelConfig(name=str(path), dtype="float64"))
    spec = spec_of(model, layers=(1,), steps=3)
    together = Memit(spec).targets(model, awkward_requests())
    parts = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": 0, "lm_head": 0}
    layers = {f"model.layers.{layer}": "cpu" if layer < 2 else 0 for layer in range(4)}
    dispatch_model(model.model, parts | layers, main_device="cpu")
    apart = Memit(spec).targets(model, awkward_requests())
    torch.testing.assert_close(apart.vectors.cpu(), together.vectors, rtol=1e-8, atol=1e-8)


def test_tensors_follow_modules_and_indices_follow_tensors() -> None:
    module, value = torch.nn.Linear(2, 2, device="meta"), torch.ones(2)
    assert placed(value, module) is value
    found = moved({"pair": (value, "name")}, torch.device("meta"))
    assert found["pair"][0].device.type == "meta"
    assert found["pair"][1] == "name"
    assert take({"pair": (value,)}, torch.tensor([1]))["pair"][0].shape == (1,)


def test_a_left_padding_tokenizer_gives_the_same_targets(
    tiny_family: TinyFamily, load_tiny: LoadTiny, tmp_path: Path
) -> None:
    left = shutil.copytree(tiny_family("mistral"), tmp_path / "left")
    settings = json.loads((left / "tokenizer_config.json").read_text())
    settings["padding_side"] = "left"
    (left / "tokenizer_config.json").write_text(json.dumps(settings))
    vectors = []
    for path in (tiny_family("mistral"), left):
        model = load_tiny(path)
        assert model.tokenizer.padding_side == "right"
        spec = spec_of(model, layers=(1,), steps=2)
        vectors.append(Memit(spec).targets(model, awkward_requests()[:3]).vectors)
    assert torch.equal(*vectors)


@pytest.mark.parametrize("unknown", [False, True])
def test_what_a_tokenizer_cannot_express_is_refused(unknown: bool, tmp_path: Path) -> None:
    model = load_model(ModelConfig(name=str(poor_directory(tmp_path, unknown)), dtype="float32"))
    good = EditRequest("0", "{} lives in", "Ada", "Arlen")
    assert target_rows(model, 0, good, ["{}"])[0].labels
    lost = EditRequest("1", "{} lives in", "Ada", "日本")
    with pytest.raises(RequestError, match="cannot express the target '日本'"):
        target_rows(model, 0, lost, ["{}"])
    mixed = EditRequest("2", "{} lives in", "Ada", "Ar日")
    with pytest.raises(RequestError, match="cannot express the target 'Ar日'"):
        target_rows(model, 0, mixed, ["{}"])
    if not unknown:
        nameless = EditRequest("3", "The home of {} is", "日本", "Arlen")
        for rows in (key_rows, target_rows):
            with pytest.raises(RequestError, match="no token of the subject '日本'"):
                rows(model, 0, nameless, ["{}"])


def poor_directory(path: Path, unknown: bool) -> Path:
    """Save a model whose tokenizer knows ASCII alone; other letters vanish or become one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = ["<unk>", "<s>", "▁", *map(chr, range(33, 127))]
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>" if unknown else None))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="<s>",
        unk_token="<unk>" if unknown else None,
    )
    return save_tiny(path, build("qwen3", tokenizer), tokenizer)


@pytest.mark.parametrize(
    ("gone", "left", "said"),
    [
        ("tokenizer.json", "tokenizer.model", r"tokenizer\.json missing \(found only tokenizer.mo"),
        ("model.safetensors", "pytorch_model.bin", r"\*\.safetensors missing \(found only \*\.bin"),
        ("config.json", "", r"config\.json missing; load model and tokenizer with"),
    ],
)
def test_half_a_directory_is_refused(
    gone: str, left: str, said: str, tiny_family: TinyFamily, tmp_path: Path
) -> None:
    path = shutil.copytree(tiny_family("phi"), tmp_path / "half")
    (path / gone).unlink()
    if left:
        (path / left).touch()
    with pytest.raises(ModelError, match=said):
        load_model(ModelConfig(name=str(path)))
