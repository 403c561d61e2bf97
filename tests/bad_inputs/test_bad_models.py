"""Model folders that do not fit together, are damaged, or bring code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import assert_refused
from safetensors.torch import load_file, save_file
from tiny_encoders import tiny_encoder
from transformers import XLNetConfig, XLNetModel

from finetune_reg.experiment.encoders import encoder_location, load_encoder
from finetune_reg.experiment.run import run
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.tasks import get_task

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
LAYER = "encoder.layer.1.output.dense.weight"
Change = Callable[[Path], Any]


def config(**changes: Any) -> Change:
    """Change entries of config.json."""
    return lambda folder: _change_json(folder / "config.json", changes)


def tokenizer_config(**changes: Any) -> Change:
    return lambda folder: _change_json(folder / "tokenizer_config.json", changes)


def _change_json(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps({k: v for k, v in (json.loads(path.read_text()) | changes).items() if v is not ...}))


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    """Change the tensors of model.safetensors."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def renamed(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[f"my_{name}"] = tensors.pop(name)


def content(name: str, data: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(data)


def without(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink(missing_ok=True) for name in names]


def cut(name: str, kept: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:kept])


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def more_words(folder: Path) -> None:
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["model"]["vocab"] |= {f"word{n}": 100 + n for n in range(5)}
    (folder / "tokenizer.json").write_text(json.dumps(stored))


def no_words(folder: Path) -> None:
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["model"]["vocab"] = {word: n for word, n in stored["model"]["vocab"].items() if word.startswith("[")}
    (folder / "tokenizer.json").write_text(json.dumps(stored))


def own_code(folder: Path) -> None:
    config(model_type="mine", auto_map={"AutoConfig": "mine.C", "AutoModelForSequenceClassification": "mine.M"})(folder)
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")


def own_tokenizer_code(folder: Path) -> None:
    tokenizer_config(tokenizer_class="Mine", auto_map={"AutoTokenizer": ["mine.T", "mine.T"]})(folder)
    (folder / "mine.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")


def classifier(label_names: dict[int, str]) -> Change:
    """Save a whole classifier, with its head and the names of its answers."""

    def apply(folder: Path) -> None:
        model = tiny_encoder("bert")
        model.config.id2label = label_names
        model.save_pretrained(folder)

    return apply


def xlnet(folder: Path) -> None:
    XLNetModel(XLNetConfig(vocab_size=50, d_model=16, n_layer=2, n_head=2, d_inner=32)).save_pretrained(folder)


FOLDERS: dict[str, tuple[Change, str]] = {
    "more layers": (config(num_hidden_layers=3), "it lacks 16 weights of the model, such as bert.encoder.layer.2."),
    "fewer layers": (config(num_hidden_layers=1), "no place for 16 of its weights, such as encoder.layer.1."),
    "no layers": (config(num_hidden_layers=0), "no place for 32 of its weights, such as encoder.layer.0."),
    "-1 layers": (config(num_hidden_layers=-1), "no place for 32 of its weights"),
    "half a layer": (config(num_hidden_layers=1.5), "Cannot load the model"),
    "wider": (config(hidden_size=32), "of its weights have other shapes than the model's"),
    "no width": (config(hidden_size=0), "Cannot load the model"),
    "width in words": (config(hidden_size="wide"), "Cannot load the model"),
    "narrower inside": (config(intermediate_size=16), "of its weights have other shapes than the model's"),
    "fewer words": (config(vocab_size=40), "word_embeddings.weight (50, 16), not (40, 16)"),
    "more words": (config(vocab_size=60), "word_embeddings.weight (50, 16), not (60, 16)"),
    "fewer positions": (config(max_position_embeddings=12), "position_embeddings.weight (24, 16), not (12, 16)"),
    "more positions": (config(max_position_embeddings=64), "position_embeddings.weight (24, 16), not (64, 16)"),
    "one token type": (config(type_vocab_size=1), "token_type_embeddings.weight (2, 16), not (1, 16)"),
    "3 heads": (config(num_attention_heads=3), "Cannot load the model"),
    "no heads": (config(num_attention_heads=0), "Cannot load the model"),
    "unknown activation": (config(hidden_act="nosuch"), "Cannot load the model"),
    "called RoBERTa": (config(model_type="roberta"), "model_type 'roberta', but its architecture BertModel is 'bert'"),
    "roberta config": (config(model_type="roberta", architectures=..., pad_token_id=1), "tokenizer pads with token 0"),
    "called ELECTRA": (config(model_type="electra", architectures=...), "have other shapes than the model's"),
    "called DistilBERT": (config(model_type="distilbert", architectures=...), "it lacks"),
    "called GPT-2": (config(model_type="gpt2", architectures=...), "it lacks"),
    "called XLNet": (config(model_type="xlnet"), "Cannot load the model"),
    "unknown architecture": (config(model_type="nosuch"), "Cannot load the model"),
    "no architecture": (config(model_type=..., architectures=...), "Cannot load the model"),
    "an image model": (config(model_type="vit", architectures=...), "Cannot load the model"),
    "quantized": (config(quantization_config={"quant_method": "gptq", "bits": 4}), "Cannot load the model"),
    "XLNet": (xlnet, "whose attention keeps weights outside of layers"),
    "code of its own": (own_code, "it needs code of its own, which is never run (trust_remote_code=False)"),
    "empty config": (content("config.json", b""), "Cannot load the model"),
    "torn config": (cut("config.json", 60), "Cannot load the model"),
    "config is a list": (content("config.json", b"[]"), "Cannot load the model"),
    "config in Latin-1": (content("config.json", b'{"model_type": "caf\xe9"}'), "Cannot load the model"),
    "config in LFS": (content("config.json", LFS), "config.json is a Git LFS pointer"),
    "no config": (without("config.json"), "Cannot load the model"),
    "other names": (weights(renamed), "it lacks"),
    "one weight missing": (weights(lambda t: t.pop(LAYER)), f"it lacks 1 weights of the model, such as bert.{LAYER}"),
    "embeddings missing": (weights(lambda t: t.pop("embeddings.word_embeddings.weight")), "it lacks 1 weights"),
    "a weight transposed": (weights(lambda t: t.update({LAYER: t[LAYER].T.contiguous()})), "(32, 16), not (16, 32)"),
    "a weight too many": (weights(lambda t: t.update({"encoder.layer.0.extra": t[LAYER].clone()})), "no place for 1"),
    "NaN": (weights(lambda t: t[LAYER].fill_(float("nan"))), f"not all numbers of bert.{LAYER} are finite"),
    "infinity": (weights(lambda t: t[LAYER][0].fill_(float("inf"))), f"not all numbers of bert.{LAYER} are finite"),
    "no tensors": (weights(lambda tensors: tensors.clear()), "it lacks"),
    "no weights": (without("model.safetensors"), "Cannot load the model"),
    "empty weights": (content("model.safetensors", b""), "Cannot load the model"),
    "weights cut in the header": (cut("model.safetensors", 500), "Cannot load the model"),
    "weights cut at the end": (cut("model.safetensors", -10), "Cannot load the model"),
    "weights are noise": (content("model.safetensors", bytes(range(256)) * 40), "Cannot load the model"),
    "weights in LFS": (content("model.safetensors", LFS), "model.safetensors is a Git LFS pointer"),
    "pickled weights": (pickled, "has its weights only as a pickle (pytorch_model.bin), which can run code"),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), "has no tokenizer, or one without words"),
    "no words": (no_words, "has no tokenizer, or one without words"),
    "torn tokenizer": (cut("tokenizer.json", 300), "Cannot load the model"),
    "empty tokenizer": (content("tokenizer.json", b""), "Cannot load the model"),
    "tokenizer is a list": (content("tokenizer.json", b"[]"), "Cannot load the model"),
    "tokenizer in LFS": (content("tokenizer.json", LFS), "tokenizer.json is a Git LFS pointer"),
    "torn tokenizer config": (cut("tokenizer_config.json", 20), "Cannot load the model"),
    "a tokenizer with more words": (more_words, "counts to 104, but the model embeds 50 tokens"),
    "a tokenizer that cannot pad": (tokenizer_config(pad_token=...), "has neither a padding nor an end token"),
    "answers the other way round": (
        classifier({0: "not_entailment", 1: "entailment"}),
        "answers not_entailment, entailment, but rte asks for entailment, not_entailment",
    ),
    "answers of another task": (classifier({0: "negative", 1: "positive"}), "answers negative, positive, but rte asks"),
}  # fmt: skip


@pytest.fixture
def model_folder(tiny_world, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_world["model_name"], tmp_path / "model"))


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_that_do_not_fit_are_damaged_or_bring_code_are_refused(model_folder, case, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail("it asked on stdin"))
    change, sentence = FOLDERS[case]
    change(model_folder)
    assert_refused(lambda: load_encoder(str(model_folder), get_task("rte"), seed=0), sentence, model_folder)


def test_code_beside_a_tokenizer_is_not_run(model_folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail("it asked on stdin"))
    own_tokenizer_code(model_folder)
    assert len(load_encoder(str(model_folder), get_task("rte"), seed=0).tokenizer) == 14
    assert not (model_folder / "ran").exists()


NAMES = {
    "": "There is no model folder ",
    "./no/such": "There is no model folder ./no/such",
    "/no/such": "There is no model folder /no/such",
    "~nobody_of_this_name/model": "There is no model folder",
    "a\0b": "There is no model folder",
    "x/" * 3_000: "There is no model folder",
    "a b": "There is no model folder a b",
    "a/b/c": "There is no model folder a/b/c",
    "../../no/such": "There is no model folder",
    "C:\\models\\bert": "There is no model folder",
    "[/bold]": "There is no model folder [/bold]",
    "naïve/bert": "There is no model folder naïve/bert",
    "https://example.org/model": "There is no model folder",
    "all-mpnet-base-v2": "is not assembled yet",
}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:20])
def test_names_that_no_model_has_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_REG_ENCODERS", str(tmp_path))
    assert_refused(lambda: encoder_location(name), NAMES[name])


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, None, "0", True])
def test_seeds_that_no_generator_takes_are_refused(tiny_world, seed):
    call = lambda: load_encoder(tiny_world["model_name"], get_task("rte"), seed)  # noqa: E731
    assert_refused(call, "load_encoder needs seed")


@pytest.mark.parametrize(
    ("task", "max_length", "sentence"),
    [
        ("rte", 1, "has no room for text beside the 3 special tokens of rte: choose from 4 to 24"),
        ("rte", 3, "has no room for text beside the 3 special tokens of rte: choose from 4 to 24"),
        ("cola", 2, "has no room for text beside the 2 special tokens of cola: choose from 3 to 24"),
        ("rte", 128, "lets a row of rte have 33 tokens, but the model can read 24: choose from 4 to 24"),
        ("rte", 25, "lets a row of rte have 25 tokens, but the model can read 24: choose from 4 to 24"),
    ],
)
def test_lengths_that_the_model_cannot_read_are_refused(tiny_world, tmp_path, task, max_length, sentence):
    (tmp_path / task).mkdir()
    row = {"sentence1": "red dog " * 10, "sentence2": "blue cat " * 5, "sentence": "red dog"}
    rows = "".join(json.dumps(row | {"label": i % 2}) + "\n" for i in range(8))
    for split in ("train", "validation"):
        (tmp_path / task / f"{split}.jsonl").write_text(rows)
    settings = RunSettings(
        task=task, source=str(tmp_path), model_name=tiny_world["model_name"], n_train=None, max_length=max_length
    )
    assert_refused(lambda: run(settings, tmp_path / "runs"), sentence)
    assert [path.suffix for path in (tmp_path / "runs" / "records").iterdir()] == [".json"]  # the failed run
