"""Records: what is read back, filled in and kept."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import recorded_run

from finetune_reg.errors import InputError
from finetune_reg.experiment.records import (
    RunRecord,
    checked_record,
    read_record,
    read_records,
    record_path,
    stored_record,
    write_record,
)
from finetune_reg.experiment.settings import SETTING_DEFAULTS, RunSettings, settings_id

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def test_settings_younger_than_a_record_get_their_defaults(tmp_path):
    record = recorded_run(batch_size=8)
    stored = asdict(record)
    for name in ("precision", "held_out_fold", "evaluate_on", "split"):
        del stored["settings"][name]
    path = record_path(tmp_path, record.run_id)
    path.parent.mkdir()
    path.write_text(json.dumps(stored))
    again = read_record(path)
    assert again == record
    assert list(again.settings) == list(SETTING_DEFAULTS)
    again.settings["evaluate_on"].append("rte")
    assert SETTING_DEFAULTS["evaluate_on"] == []


def test_fields_younger_than_a_record_get_their_defaults(tmp_path):
    record = recorded_run()
    stored = {name: value for name, value in asdict(record).items() if name not in ("head", "transfer", "error")}
    assert checked_record(stored) == record


def test_a_record_has_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        path = write_record(recorded_run(), tmp_path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_record_that_a_sweep_removes_meanwhile_is_passed_over(tmp_path, monkeypatch):
    kept, removed = (write_record(recorded_run(seed=seed), tmp_path) for seed in range(2))
    glob = type(tmp_path).glob

    def glob_and_remove(folder, pattern):
        found = list(glob(folder, pattern))
        removed.unlink(missing_ok=True)
        return iter(found)

    monkeypatch.setattr(type(tmp_path), "glob", glob_and_remove)
    assert [record.run_id for record in read_records(tmp_path)] == [kept.stem]
    assert stored_record(tmp_path, removed.stem) is None


def test_a_record_that_a_sweep_makes_again_between_two_looks_is_read(tmp_path, monkeypatch):
    record, looks = recorded_run(), []
    path = write_record(record, tmp_path)
    read_text = type(path).read_text

    def not_there_at_the_first_look(file, **options):
        looks.append(file)
        if len(looks) % 2:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(file))
        return read_text(file, **options)

    monkeypatch.setattr(type(path), "read_text", not_there_at_the_first_look)
    assert read_records(tmp_path) == [record]
    assert stored_record(tmp_path, record.run_id) == record


def test_records_are_read_without_pytorch():
    heavy = "('torch', 'transformers', 'pandas', 'sklearn')"
    code = f"import sys, finetune_reg.experiment.records; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(
    st.sampled_from(["vanilla", "mixout"]),
    st.integers(0, 2**32 - 1),
    st.floats(1e-9, 1e9),
    st.none() | st.integers(5, 10**6),
    st.none() | st.integers(0, 4),
    st.none() | st.floats(-1, 1, allow_subnormal=False),
)
def test_a_record_survives_json(method, seed, rate, n_train, fold, score):
    settings = RunSettings(method=method, learning_rate=rate, n_train=n_train, held_out_fold=fold).with_seed(seed)
    status = "diverged" if score is None else "ok"
    record = RunRecord(settings.run_id, asdict(settings), status, "accuracy", score)
    again = checked_record(json.loads(json.dumps(asdict(record), allow_nan=False)))
    assert again == record
    assert RunSettings(**again.settings) == settings
    assert settings_id(again.settings) == settings.run_id


@given(st.sampled_from(list(asdict(recorded_run()))), JSON)
def test_an_entry_is_read_as_it_is_or_refused(name, value):
    stored = asdict(recorded_run()) | {name: value}
    try:
        record = checked_record(stored)
    except InputError:
        return
    assert json.loads(json.dumps(asdict(record))) == json.loads(json.dumps(stored))


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_all_seeds_that_generators_take_are_seeds(seed):
    assert RunSettings().with_seed(seed).seed_init == seed
