"""Whatever can be parsed as a plan, a record or YAML either comes back as it was, or is refused in a sentence."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_runs import recorded_run

from finetune_reg.errors import InputError
from finetune_reg.experiment.notebook_parameters import TEMPLATE_PARAMETERS
from finetune_reg.experiment.records import read_record, write_record
from finetune_reg.hyperparameters.typed_parameters import parse_yaml
from finetune_reg.methods import METHODS
from finetune_reg.sweep.plan import notebooks_of, store_plan, stored_plan
from finetune_reg.sweep.protocol import read_protocol
from finetune_reg.tasks import TASKS

MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

texts = st.text(max_size=8) | st.sampled_from(["010", "1:30", "on", "~", "[/b]", "2024-01-31", "é\x85", "a\nb", "{a}"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_subnormal=False) | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
# Mostly right, so that some plans are accepted.
good = {
    "task": st.sampled_from([name for name, task in TASKS.items() if task.embedded]),
    "method": st.sampled_from(sorted(METHODS)) | st.just({"mixout": {"mix_probability": 0.5}}),
    "method_hyperparameters": st.just({}),
    "n_train": st.none() | st.integers(-1, 2_100),
    "epochs": st.integers(0, 5),
    "learning_rate": st.floats(0, 1, allow_subnormal=False),
    "seeds": st.lists(st.integers(-1, 2**33), max_size=3, unique=True),
    "seed_subset": st.none() | st.integers(0, 3),
    "held_out_fold": st.none() | st.integers(-1, 6),
    "stratified": st.booleans(),
}


def entry(name):
    return st.one_of(good[name], good[name], good[name], values) if name in good else values


names = st.sampled_from([*good, *good, *sorted(TEMPLATE_PARAMETERS)])
bases = st.dictionaries(names, st.none(), max_size=3).flatmap(
    lambda chosen: st.fixed_dictionaries({name: entry(name) for name in chosen})
)
grids = st.dictionaries(names, st.none(), min_size=1, max_size=3).flatmap(
    lambda chosen: st.fixed_dictionaries({name: st.lists(entry(name), max_size=3) | values for name in chosen})
)
plans = st.fixed_dictionaries(
    {"grid": grids},
    optional={"base": bases, "exclude": st.lists(bases, max_size=2), "by_task": values, "scales": values},
)


def is_a_sentence(error: InputError) -> None:
    assert re.fullmatch(r"[^\n]{10,3000}", str(error))


@MANY
@given(plan=plans | values)
def test_a_plan_is_kept_as_it_was_read_or_refused(tmp_path_factory, plan):
    folder = tmp_path_factory.mktemp("plan")
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan, allow_unicode=True), encoding="utf-8")
    try:
        notebooks = notebooks_of(read_protocol(path))
    except InputError as error:
        is_a_sentence(error)
        return
    store_plan(notebooks, folder)
    kept = {run.stem: run for run in stored_plan(folder)}
    assert kept == {run.stem: run for run in notebooks}
    assert {run_id for run in kept.values() for run_id in run.run_ids} == {i for run in notebooks for i in run.run_ids}


@MANY
@given(text=st.text(alphabet="ab01:.-_ \n\t[]{},&*!?|>%@'\"#~<é", max_size=40))
def test_yaml_is_read_alike_twice_or_refused(text):
    try:
        value = parse_yaml(text)
    except InputError as error:
        is_a_sentence(error)
        return
    assert repr(parse_yaml(yaml.safe_dump(value, allow_unicode=True))) == repr(value)


RECORD = asdict(recorded_run("entailment", seed=3))
changes = st.dictionaries(st.sampled_from([*RECORD, *RECORD, "unknown"]), values, max_size=3)
changed_settings = st.dictionaries(st.sampled_from([*RECORD["settings"], "unknown"]), values, max_size=2)


@MANY
@given(changed=changes, settings_changed=changed_settings, dropped=st.sets(st.sampled_from(list(RECORD)), max_size=1))
def test_a_record_is_written_as_it_was_read_or_refused(tmp_path_factory, changed, settings_changed, dropped):
    folder = tmp_path_factory.mktemp("record")
    content = RECORD | {"settings": RECORD["settings"] | settings_changed} | changed
    content = {name: value for name, value in content.items() if name not in dropped}
    path = folder / "records" / f"{RECORD['run_id']}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        record = read_record(path)
        copy = read_record(write_record(record, folder / "copy"))
    except InputError as error:
        is_a_sentence(error)
        return
    assert asdict(copy) == asdict(record)
