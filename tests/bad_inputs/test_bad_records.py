"""Records and tables that are damaged, foreign, edited or twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from recorded_runs import recorded_run
from refusals import assert_refused

from finetune_reg.experiment.records import read_record, read_records, record_path, write_record
from finetune_reg.experiment.run import run
from finetune_reg.experiment.settings import RunSettings, settings_id
from finetune_reg.results.restoring import restore
from finetune_reg.results.run_tables import load_results, results_table

NAN, INF = float("nan"), float("inf")
GOOD = asdict(recorded_run())
CURVE = {"epoch": 1, "update": 10, "train_loss": 0.5, "accuracy": 0.5}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


def changed(**changes: Any) -> bytes:
    """A record with other entries; `...` leaves one out."""
    return json.dumps({name: value for name, value in (GOOD | changes).items() if value is not ...}).encode()


def with_settings(**changes: Any) -> bytes:
    return changed(settings={k: v for k, v in (GOOD["settings"] | changes).items() if v is not ...})


def with_id(**changes: Any) -> bytes:
    """A record with other settings, under their hash."""
    settings = GOOD["settings"] | changes
    return changed(settings=settings, run_id=settings_id(settings))


FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not a complete JSON object"),
    "torn": (changed()[:200], "is not a complete JSON object"),
    "null": (b"null", "It is a NoneType, not a JSON object"),
    "number": (b"3", "It is a int, not a JSON object"),
    "list": (b"[]", "It is a list, not a JSON object"),
    "string": (b'"ok"', "It is a str, not a JSON object"),
    "empty object": (b"{}", "A run record needs run_id, settings, status, metric"),
    "Latin-1": (changed(error="caf").replace(b"caf", b"caf\xe9"), "is not a complete JSON object"),
    "UTF-16": (changed().decode().encode("utf-16"), "is not a complete JSON object"),
    "LFS pointer": (LFS, "is not a complete JSON object"),
    "deep": (b"[" * 100_000, "is not a complete JSON object"),
    "5,000 digits": (b'{"run_id": ' + b"1" * 5_000 + b"}", "is not a complete JSON object"),
    "schema 2": (changed(schema_version=2), "It has schema 2"),
    "schema 0": (changed(schema_version=0), "It has schema 0"),
    "schema in words": (changed(schema_version="1"), "It has schema '1'"),
    "no schema at all": (changed(schema_version=None), "It has schema None"),
    "unknown field": (changed(scores=[0.5]), "There is no field of a run record 'scores': did you mean 'score'?"),
    "status finished": (changed(status="finished"), "needs status to be 'ok' or 'diverged'"),
    "status in capitals": (changed(status="OK"), "needs status to be 'ok'"),
    "no status": (changed(status=...), "A run record needs status"),
    "null status": (changed(status=None), "needs status to be 'ok'"),
    "no run id": (changed(run_id=...), "A run record needs run_id"),
    "other run id": (changed(run_id="0123456789ab"), "Its run id '0123456789ab' is not that of its settings"),
    "run id that leaves the folder": (changed(run_id="../../escaped"), "is not that of its settings"),
    "run id is a number": (changed(run_id=7), "needs run_id to be a string"),
    "no settings": (changed(settings={}), "is not that of its settings"),
    "settings are a list": (changed(settings=[]), "needs settings to be a mapping"),
    "unknown setting": (with_settings(epoch=3), "There is no setting 'epoch': did you mean 'epochs'?"),
    "other rate": (with_settings(learning_rate=1e-3), "is not that of its settings"),
    "other seed": (with_settings(seed_init=5), "is not that of its settings"),
    "other method": (with_settings(method="mixout"), "is not that of its settings"),
    "other hyperparameters": (with_settings(method_hyperparameters={"dropout": 0.3}), "is not that of its settings"),
    "no task": (with_settings(task=...), "is not that of its settings"),
    "score in words": (changed(score="high"), "needs score to be a number or None"),
    "score is true": (changed(score=True), "needs score to be a number or None"),
    "score is a list": (changed(score=[0.5]), "needs score to be a number or None"),
    "ok without score": (changed(score=None), "Its status is ok and its score None"),
    "diverged with score": (changed(status="diverged"), "Its status is diverged and its score 0.6"),
    "failed with score": (changed(status="failed"), "Its status is failed and its score 0.6"),
    "score NaN": (changed(score=NAN), "It holds NaN, which is no number of JSON"),
    "score infinite": (changed(score=-INF), "It holds -Infinity, which is no number of JSON"),
    "NaN inside": (changed(history=[{"epoch": 1, "train_loss": NAN}]), "It holds NaN"),
    "history is a mapping": (changed(history={"epoch": 1}), "needs history to be a list"),
    "history without a score": (changed(history=[{"epoch": 1}]), "and an epoch in each entry"),
    "history without an epoch": (changed(history=[{"accuracy": 0.5}]), "and an epoch in each entry"),
    "epoch is a text": (changed(history=[{"epoch": "1", "accuracy": 0.5}]), "needs history[0].epoch to be an integer"),
    "epoch twice": (changed(history=[{"epoch": 1, "accuracy": 0.5}] * 2), "no epoch twice"),
    "history of numbers": (changed(history=[0.5, 0.6]), "needs history[0] to be a mapping"),
    "subset is a list": (changed(subset=[1, 2]), "needs subset to be a mapping"),
    "metric is null": (changed(metric=None), "needs metric to be a string"),
    "updates in words": (changed(n_updates="ten"), "needs n_updates to be an integer"),
    "below majority is a number": (changed(below_majority=1), "needs below_majority to be true or false"),
    "head is lost": (changed(head="lost"), "needs head to be 'kept' or 'drawn'"),
    "score of 1e308": (changed(score=1e308), "needs score in [-1, 1]"),
    "score of 1e999": (changed(score=0.1).replace(b'"score": 0.1', b'"score": 1e999'), "needs score in [-1, 1]"),
    "majority score of 50": (changed(majority_score=50.0), "needs majority_score in [-1, 1]"),
    "best score is true": (changed(best_score=True), "needs best_score to be a number or None"),
    "history with text": (changed(history=[CURVE | {"f1": "x"}]), "needs history[0].f1 to be a number"),
    "history with null": (changed(history=[CURVE | {"train_loss": None}]), "needs history[0].train_loss to be a"),
    "history with a list": (changed(history=[CURVE, CURVE | {"accuracy": [1]}]), "needs history[1].accuracy to be"),
    "history with a score of 1e308": (changed(history=[CURVE | {"accuracy": 1e308}]), "needs history[0].accuracy in"),
    "negative epoch": (changed(history=[CURVE | {"epoch": -1}]), "needs history[0].epoch in [0, 1e15]"),
    "epoch is true": (changed(history=[CURVE | {"epoch": True}]), "needs history[0].epoch to be an integer"),
    "transfer of numbers": (changed(transfer={"mnli": 3}), "needs transfer.mnli to be a mapping, not 3 (int)"),
    "transfer of nulls": (changed(transfer={"mnli": None}), "needs transfer.mnli to be a mapping"),
    "transfer with text": (changed(transfer={"mnli": {"accuracy": "x"}}), "needs transfer.mnli.accuracy to be"),
    "transfer with null": (changed(transfer={"mnli": {"accuracy": None}}), "needs transfer.mnli.accuracy to be"),
    "transfer of 1e308": (changed(transfer={"mnli": {"accuracy": 1e308}}), "needs transfer.mnli.accuracy in [-1, 1]"),
    "lines in a name": (changed(transfer={"a\nb" * 99: 3}), "needs transfer.a\\nba"),
    "logits of numbers": (changed(logits=[1.0]), "needs logits[0] to be a list"),
    "logits with text": (changed(logits=[[1.0, "x"]]), "needs logits[0][1] to be a number"),
    "logits of 1e308": (changed(logits=[[1e308]]), "needs logits[0][0] in [-1e39, 1e39]"),
    "content hash is a number": (changed(subset={"content_hash": 5}), "needs subset.content_hash to be a string"),
    "content hash is a list": (changed(subset={"content_hash": ["a"]}), "needs subset.content_hash to be a string"),
    "validation hash is null": (changed(subset={"validation_hash": None}), "needs subset.validation_hash to be"),
    "transfer hashes are a list": (changed(subset={"transfer_hashes": []}), "needs subset.transfer_hashes to be a map"),
    "transfer hash is a number": (changed(subset={"transfer_hashes": {"mnli": 1}}), "transfer_hashes.mnli to be"),
    "row ids are a text": (changed(subset={"row_ids": "1, 2"}), "needs subset.row_ids to be a list"),
    "row ids with text": (changed(subset={"row_ids": [1, "2"]}), "needs subset.row_ids[1] to be an integer"),
    "negative row id": (changed(subset={"row_ids": [1, -2]}), "needs subset.row_ids[1] in [0, 1e15]"),
    "Python is a number": (changed(environment={"python": 5}), "needs environment.python to be a string, not 5 (int)"),
    "torch is null": (changed(environment={"torch": None}), "needs environment.torch to be a string"),
    "platform is a list": (changed(environment={"platform": ["Linux"]}), "needs environment.platform to be a string"),
    "SciPy is a mapping": (changed(environment={"scipy": {}}), "needs environment.scipy to be a string"),
    "threads in words": (changed(environment={"threads": "one"}), "needs environment.threads to be an integer"),
    "negative threads": (changed(environment={"threads": -1}), "needs environment.threads in [0, 1e15]"),
    "changes in words": (changed(environment={"uncommitted_changes": "no"}), "uncommitted_changes to be true or false"),
    "negative passes": (changed(forward_passes=-1), "needs forward_passes in [0, 1e15]"),
    "passes are true": (changed(backward_passes=True), "needs backward_passes to be an integer"),
    "passes of 30 digits": (changed(forward_passes=10**30), "needs forward_passes to be at most"),
    "parameters are a list": (changed(n_parameters=[1]), "needs n_parameters to be an integer"),
    "negative seconds": (changed(wall_seconds=-1.0), "needs wall_seconds in [0, 1e39]"),
    "seconds of 1e308": (changed(wall_seconds=1e308), "needs wall_seconds in [0, 1e39]"),
    "memory is a text": (changed(peak_memory_mb="500"), "needs peak_memory_mb to be a number"),
    "weights hash is a number": (changed(weights_hash=7), "needs weights_hash to be a string"),
    "error is a list": (changed(error=["x"]), "needs error to be a string"),
    "time is a number": (changed(finished_at=20260102), "needs finished_at to be a string"),
    "rate is a text": (with_id(learning_rate="fast"), "needs settings.learning_rate to be a number"),
    "task is a list": (with_id(task=["rte"]), "needs settings.task to be a string"),
    "seed is null": (with_id(seed_init=None), "needs settings.seed_init to be an integer"),
    "rows are negative": (with_id(n_train=-5), "needs settings.n_train in [1, inf)"),
    "other tasks are numbers": (with_id(evaluate_on=[1]), "needs settings.evaluate_on[0] to be a string"),
    "hash of no weights": (changed(weights_hash="e3b0c44298fc1c14"), "No weight of its checkpoint fitted its model"),
}  # fmt: skip


def stored(folder: Path, content: bytes) -> Path:
    path = record_path(folder, GOOD["run_id"])
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("case", FILES)
def test_records_that_are_damaged_foreign_or_edited_are_refused_by_name(tmp_path, case):
    content, sentence = FILES[case]
    path = stored(tmp_path, content)
    for read in (lambda: read_record(path), lambda: read_records(tmp_path), lambda: load_results(tmp_path)):
        assert_refused(read, sentence, tmp_path)
        assert_refused(read, str(path), tmp_path)


@pytest.mark.parametrize("case", ["torn", "schema 2", "other rate", "hash of no weights"])
def test_a_run_does_not_pass_over_a_damaged_record(tmp_path, case):
    content, sentence = FILES[case]
    stored(tmp_path, content)
    assert_refused(lambda: run(RunSettings(task="rte"), tmp_path), sentence, tmp_path)


def linked(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to(path.with_name("nowhere.json"))


def looped(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.symlink_to(path)


PLACES: dict[str, Callable[[Path], Any]] = {
    "dangling link": linked,
    "link to itself": looped,
    "folder": lambda path: path.mkdir(parents=True),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_record_that_is_no_file_is_refused_by_name(tmp_path, case):
    path = record_path(tmp_path, GOOD["run_id"])
    PLACES[case](path)
    for read in (
        lambda: read_records(tmp_path),
        lambda: run(RunSettings(task="rte"), tmp_path),
        lambda: write_record(recorded_run(), tmp_path),
    ):
        assert_refused(read, f"Cannot read {path}", tmp_path)


def test_a_record_under_the_name_of_another_run_is_refused(tmp_path):
    other = RunSettings(task="rte", seed_init=1).run_id
    record_path(tmp_path, other).parent.mkdir()
    record_path(tmp_path, other).write_bytes(changed())
    assert_refused(lambda: read_records(tmp_path), f"holds the run {GOOD['run_id']}, not that of its name", tmp_path)
    assert_refused(lambda: run(RunSettings(task="rte", seed_init=1), tmp_path), "not that of its name", tmp_path)


OUTPUTS = {"below a file": "file/runs", "300 characters": "x" * 300, "link to itself": "loop/runs"}


@pytest.mark.parametrize("case", OUTPUTS)
def test_output_folders_that_cannot_be_are_refused(tmp_path, case):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    folder = tmp_path / OUTPUTS[case]
    assert_refused(lambda: write_record(recorded_run(), folder), str(folder)[:100], tmp_path)


def test_a_folder_without_records_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "no", Path("\0")):
        assert_refused(lambda folder=folder: read_records(folder), "holds no run records")


@pytest.mark.parametrize("place", ["backup/records", "a/b/records", "records"])
def test_results_of_one_run_that_differ_are_refused_by_name_and_copies_count_once(tmp_path, place):
    path = write_record(recorded_run(), tmp_path)
    copy = tmp_path / place / (f"{path.stem} copy.json" if place == "records" else path.name)
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(path.read_bytes())
    assert len(load_results(tmp_path)) == 1
    copy.write_bytes(changed(wall_seconds=99.0, finished_at="2026-02-02T00:00:00+00:00", environment={}))
    assert load_results(tmp_path).wall_seconds.tolist() == [36.0]
    copy.write_bytes(changed(score=0.7))
    assert_refused(lambda: read_records(tmp_path), "hold different results of the run", tmp_path)
    assert_refused(lambda: read_records(tmp_path), str(copy), tmp_path)


def table_file(folder: Path, **columns: Any) -> Path:
    table = results_table([recorded_run(), recorded_run(seed=1)])
    table = table.drop(columns=[name for name, value in columns.items() if value is ...])
    table = table.assign(**{name: value for name, value in columns.items() if value is not ...})
    table.to_parquet(folder / "table.parquet")
    return folder / "table.parquet"


TABLES: dict[str, tuple[dict[str, Any], str]] = {
    "run ids that leave the folder": ({"run_id": ["../../escaped", "../../too"]}, "is not that of its settings"),
    "run ids of others": ({"run_id": ["0123456789ab", "0123456789ac"]}, "is not that of its settings"),
    "run ids are numbers": ({"run_id": [1, 2]}, "needs run_id to be a string"),
    "edited rates": ({"learning_rate": 1.0}, "is not that of its settings"),
    "unknown status": ({"status": "finished"}, "needs status to be 'ok'"),
    "scores without status": ({"status": "failed"}, "Its status is failed and its score 0.6"),
    "no scores": ({"score": NAN}, "Its status is ok and its score None"),
    "another schema": ({"schema_version": 2}, "another schema than 1"),
    **{
        f"history is {text[:10]}": ({"history": text}, sentence)
        for sentence, texts in {
            "that is no JSON": ("epochs", "[" * 5_000),
            "needs history to be a list": ("{}", "null", "3"),
        }.items()
        for text in texts
    },
    **{
        f"{name} is {text}": ({name: text}, sentence.format(name))
        for name in ("subset", "transfer", "method_hyperparameters", "environment")
        for text, sentence in {
            "[": "that is no JSON",
            **dict.fromkeys(("[]", "null"), "needs {} to be a mapping"),
        }.items()
    },
    "scores are text": ({"score": "x"}, "needs score to be a number"),
    "scores are infinite": ({"score": INF}, "needs score in [-1, 1]"),
    "best scores are infinite": ({"best_score": -INF}, "needs best_score in [-1, 1]"),
    "scores of 1e308": ({"score": 1e308}, "needs score in [-1, 1]"),
    "scores are lists": ({"score": [[0.5], [0.6]]}, "has lists or mappings as score"),
    "histories are lists": ({"history": [[1.0], [2.0]]}, "has lists or mappings as history"),
    "Python is a number": ({"environment": '{"python": 5}'}, "needs environment.python to be a string"),
    "transfer of numbers": ({"transfer": '{"mnli": 3}'}, "needs transfer.mnli to be a mapping"),
    "content hash is a number": ({"subset": '{"content_hash": 5}'}, "needs subset.content_hash to be a string"),
    "passes in words": ({"forward_passes": "ten"}, "needs forward_passes to be an integer"),
    "half passes": ({"forward_passes": 0.5}, "needs forward_passes to be an integer"),
    "negative passes": ({"forward_passes": -1}, "needs forward_passes in [0, 1e15]"),
    "negative seconds": ({"wall_seconds": -1.0}, "needs wall_seconds in [0, 1e39]"),
    "rates are text": ({"learning_rate": "fast"}, "needs learning_rate to be a number"),
    "weights hashes are numbers": ({"weights_hash": 7}, "needs weights_hash to be a string"),
    "no run ids": ({"run_id": ...}, "it lacks run_id"),
    "no method": ({"method": ..., "method_label": ...}, "it lacks method, method_label"),
    "one run twice": ({"run_id": "0123456789ab", "score": [0.6, 0.7]}, "different results of the run 0123456789ab"),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_that_are_edited_or_foreign_are_not_restored(tmp_path, case):
    columns, sentence = TABLES[case]
    path = table_file(tmp_path, **columns)
    out = tmp_path / "deep" / "down"
    assert_refused(lambda: restore(load_results(path), out), sentence, tmp_path)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"run_id,score\n1,2\n", LFS], ids=["empty", "start", "CSV", "LFS"])
def test_files_that_are_no_table_are_refused(tmp_path, data):
    path = tmp_path / "table.parquet"
    path.write_bytes(data)
    assert_refused(lambda: load_results(path), str(path), tmp_path)
    path.write_bytes(b"")
    assert_refused(lambda: load_results(tmp_path / "other.parquet"), "There is neither a folder of records nor")


def test_a_table_of_something_else_is_refused(tmp_path):
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "x.parquet")
    assert_refused(lambda: load_results(tmp_path / "x.parquet"), "is not a table of runs")


def test_restoring_over_another_result_is_refused(tmp_path):
    path = table_file(tmp_path)
    write_record(recorded_run(score=0.9), tmp_path)
    assert_refused(lambda: restore(load_results(path), tmp_path), "holds another result of this run", tmp_path)


def test_numbers_that_are_not_finite_are_not_written(tmp_path):
    assert_refused(lambda: write_record(recorded_run(score=NAN), tmp_path), "needs score in [-1, 1]", tmp_path)
    assert_refused(lambda: write_record(recorded_run(majority_score=INF), tmp_path), "needs majority_score", tmp_path)
    record = recorded_run()
    record.settings["method_hyperparameters"] = {"dropout": NAN}
    record.run_id = settings_id(record.settings)
    assert_refused(lambda: write_record(record, tmp_path), "a number that is not finite", tmp_path)
