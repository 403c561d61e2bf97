"""What a folder knows of the sweeps in it: all planned runs, whoever writes at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from recorded_runs import recorded_run

from finetune_reg.errors import InputError
from finetune_reg.experiment.records import record_path, write_record
from finetune_reg.experiment.settings import RunSettings
from finetune_reg.sweep import NotebookRun
from finetune_reg.sweep.plan import planned_runs, prepare, recorded_status, store_plan, stored_plan
from finetune_reg.sweep.protocol import Protocol, store_protocol, stored_protocols
from finetune_reg.sweep.status import sweep_status

TEN = {"task": "entailment", "seeds": list(range(10))}


def totals(folder):
    counts, _ = sweep_status(folder)
    return sum(counts.values(), start=type(next(iter(counts.values())))())


def test_a_run_of_one_seed_leaves_the_plan_of_ten_in_its_folder(tmp_path):
    store_plan([NotebookRun(TEN)], tmp_path)
    prepare([NotebookRun(TEN | {"seeds": [0]})], tmp_path)
    write_record(recorded_run("entailment", seed=0), tmp_path)
    assert totals(tmp_path) == {"done": 1, "waiting": 9}
    assert len(planned_runs(tmp_path)) == 10


def test_a_plan_that_is_started_again_is_kept_once(tmp_path):
    for device in ("cpu", "auto", "auto"):
        store_plan([NotebookRun(TEN | {"device": device})], tmp_path)
    (kept,) = stored_plan(tmp_path)
    assert kept.parameters == TEN | {"device": "auto"}


def test_sweeps_that_start_at_once_do_not_hinder_each_other(tmp_path):
    notebooks = [NotebookRun(TEN | {"n_train": n_train}) for n_train in (50, 100)]
    killed = recorded_run("entailment", seed=0, n_train=50, score=None, status="killed")
    protocol = Protocol("plan", "small")

    def start(_):
        write_record(killed, tmp_path)
        prepare(notebooks, tmp_path)
        store_protocol(protocol, tmp_path)

    with ThreadPoolExecutor(24) as pool:
        assert list(pool.map(start, range(240))) == [None] * 240
    assert sorted(run.stem for run in stored_plan(tmp_path)) == sorted(run.stem for run in notebooks)
    assert [kept.title for kept in stored_protocols(tmp_path)] == ["plan-small"]
    assert {path.name for path in tmp_path.iterdir()} == {"plans", "protocols", "records"}
    assert not [path for path in tmp_path.rglob("*.tmp")]


def test_a_record_that_is_removed_meanwhile_is_no_error(tmp_path):
    assert recorded_status(tmp_path, "0123456789ab") is None
    record = recorded_run("entailment", seed=0)
    path = write_record(record, tmp_path)
    assert recorded_status(tmp_path, record.run_id) == "ok"
    path.write_text("{")
    with pytest.raises(InputError, match=record.run_id):
        recorded_status(tmp_path, record.run_id)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"5", b"\xff\xfe", b'{"tusk": "rte"}', b'{"task": 5}'])
@pytest.mark.parametrize("kind", ["plans", "protocols"])
def test_a_damaged_file_of_a_folder_is_named(tmp_path, kind, content):
    store_plan([NotebookRun(TEN)], tmp_path)
    damaged = tmp_path / kind / "damaged.json"
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(content)
    with pytest.raises(InputError) as refusal:
        (stored_plan if kind == "plans" else stored_protocols)(tmp_path)
    assert str(damaged) in str(refusal.value)
    assert "move it away" in str(refusal.value).lower()


def test_names_of_notebooks_tell_runs_apart():
    names = {
        NotebookRun(TEN | changed).stem
        for changed in ({}, {"seeds": [0]}, {"seeds": [0, 1]}, {"n_train": 50}, {"method": "mixout"}, {"device": "cpu"})
    }
    assert len(names) == 5  # the device decides nothing


def test_status_of_runs_without_a_plan_comes_from_their_records(tmp_path):
    for seed, (score, status) in enumerate([(0.6, "ok"), (None, "failed"), (None, "killed")]):
        write_record(recorded_run("entailment", seed=seed, score=score, status=status), tmp_path)
    assert totals(tmp_path) == {"done": 1, "failed": 1, "killed": 1}
    assert record_path(tmp_path, RunSettings(task="entailment").run_id).exists()
