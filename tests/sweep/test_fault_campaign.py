"""Two hundred faults in real sweeps: after each the sweep is resumed, and nothing is lost, doubled, torn or wrong."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml
from command_line import COMMAND, call
from sweep_plans import ENVIRONMENT, comparable, kernels_of, start_sweep, survivors, wait_for, workers_of

from finetune_reg.experiment.run import run
from finetune_reg.sweep import read_plan
from finetune_reg.sweep.plan import stored_plan

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.skipif(os.name != "posix", reason="signals"),
    pytest.mark.xdist_group("fault campaign"),
]
PLAN = {  # runs of one update on 16 rows, scored on the 4 that are held out
    "base": {"source": "pocket", "n_train": 20, "held_out_fold": 0, "batch_size": 16, "epochs": 1, "seeds": [0, 1, 2]},
    "grid": {
        "task": ["acceptability", "entailment", "paraphrase", "similarity"],
        "method": ["vanilla", "mixout", {"vanilla": {"dropout": 0.0}}],
    },
}
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM}
PARTS, ROUNDS = 10, 5
# Of each round: two faults that a sweep outlives, one that ends it, and one that it meets when it is started again.
OUTLIVED = [("worker", "SIGKILL")] * 4 + [("kernel", "SIGKILL")] * 4 + [("worker", "SIGTERM"), ("kernel", "SIGTERM")]
ENDING = ["SIGKILL"] * 3 + ["SIGTERM"] * 2
MET = ["full disk", "full disk", "torn record", "torn plan", "removed notebook"]

# A small disk in the place of the sweep's folder, with what is in it and a little space; what is written stays there.
FULL_DISK = """set -u
cp -r "$1" "$1.copy"
mount -t tmpfs tmpfs "$1" && cp -r "$1.copy/." "$1" || exit 42
mount -o remount,size=$(($(du -sk "$1" | cut -f1) + $2))k "$1" || exit 42
"$3" sweep run "$4" --output-dir "$1" --slots 2
code=$?
rm -r "$1.copy" && cp -r "$1" "$1.copy"
exit $code
"""


@dataclass
class Patient:
    """A sweep that faults are injected into, and what was found to be wrong with it."""

    plan: Path
    folder: Path
    expected: dict[str, dict]
    faults: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    finished: dict[str, bytes] = field(default_factory=dict)

    @property
    def arguments(self) -> tuple:
        return "run", self.plan, "--output-dir", self.folder, "--slots", 2

    def start(self) -> subprocess.Popen:
        return start_sweep(*self.arguments, log=self.folder.with_suffix(".log"))

    def look(self) -> None:
        """Compare the records with those that were there before: finished ones stay as they are."""
        found = {path.stem: path.read_bytes() for path in (self.folder / "records").glob("*.json")}
        finished = {}
        for run_id, content in found.items():
            try:
                if json.loads(content)["status"] == "ok":
                    finished[run_id] = content
            except ValueError:
                self.wrong["torn"] += 1
        self.wrong["lost"] += len(self.finished.keys() - finished.keys())
        changed = [name for name, content in self.finished.items() if finished.get(name, content) != content]
        self.wrong["doubled"] += len(changed)
        self.finished |= finished

    def strike(self, sweep: subprocess.Popen, kind: str, name: str, chance: random.Random) -> None:
        """End one of the processes of a running sweep; with a worker, its kernel has to end."""
        processes = {"worker": workers_of, "kernel": kernels_of}[kind]
        victims = wait_for(lambda: sweep.poll() is not None or processes(sweep), seconds=300)
        assert sweep.poll() is None, self.log
        victim = chance.choice(victims)
        ended = [victim, *victim.children()]
        victim.send_signal(SIGNALS[name])
        self.faults[f"{kind}, {name}"] += 1
        self.wrong["orphans"] += len(survivors(ended))
        self.look()

    def end(self, sweep: subprocess.Popen, name: str) -> None:
        """End the command itself; all its processes have to end."""
        processes = psutil.Process(sweep.pid).children(recursive=True)
        assert sweep.poll() is None, self.log
        sweep.send_signal(SIGNALS[name])
        self.faults[f"command, {name}"] += 1
        sweep.wait(timeout=30)
        self.wrong["orphans"] += len(survivors(processes))
        self.look()

    def harm(self, name: str, chance: random.Random) -> None:
        """Leave the folder as no sweep would, and start the sweep again."""
        self.faults[name] += 1
        if name == "full disk":
            self.run_on_a_full_disk(space=chance.randrange(0, 64))
        elif name == "removed notebook":
            if executed := sorted((self.folder / "notebooks").glob("*.ipynb")):
                chance.choice(executed).unlink()
        else:
            records = sorted((self.folder / "records").glob("*.json")) if name == "torn record" else []
            torn = chance.choice(records or sorted((self.folder / "plans").glob("*.json")))
            torn.write_bytes(torn.read_bytes()[: chance.randrange(torn.stat().st_size)])
            refused = call("sweep", "status", self.folder)
            assert refused.returncode == 2, refused
            assert str(torn) in refused.stderr
            if torn in records:  # a plan is written again by the next sweep
                torn.unlink()
                self.finished.pop(torn.stem, None)
        self.look()

    def run_on_a_full_disk(self, space: int) -> None:
        command = ["unshare", "-rm", "bash", "-c", FULL_DISK, "bash", self.folder, str(space), COMMAND, self.plan]
        ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
        assert ended.returncode in (0, 1, 2), ended
        assert "Traceback" not in ended.stderr, ended.stderr
        shutil.rmtree(self.folder)
        self.folder.with_name(f"{self.folder.name}.copy").rename(self.folder)

    def cure(self) -> None:
        """Resume without faults, and compare what is there in the end."""
        resumed = call("sweep", *self.arguments)
        assert resumed.returncode == 0, resumed.stderr
        self.look()
        made = comparable(self.folder)
        self.wrong["lost"] += len(self.expected.keys() - made.keys())
        self.wrong["doubled"] += len(made.keys() - self.expected.keys())
        self.wrong["wrong"] += sum(made[run_id] != self.expected[run_id] for run_id in made.keys() & self.expected)
        self.wrong["torn"] += sum(1 for _ in self.folder.rglob("*.tmp"))
        assert len(stored_plan(self.folder)) == 12

    @property
    def log(self) -> str:
        return self.folder.with_suffix(".log").read_text()


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Path:
    plan = tmp_path_factory.mktemp("plans") / "plan.yaml"
    plan.write_text(yaml.safe_dump(PLAN))
    return plan


@pytest.fixture(scope="module")
def expected(plan, tmp_path_factory) -> dict[str, dict]:
    """The records of the same runs, undisturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for settings in [settings for notebook in read_plan(plan) for settings in notebook.settings]:
        run(settings, folder)
    return comparable(folder)


@pytest.mark.parametrize("part", range(PARTS))
def test_twenty_faults_leave_nothing_wrong(plan, expected, tmp_path, part, record_property):
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs user namespaces")
    chance, start = random.Random(part), time.monotonic()
    outlived, ending, met = (chance.sample(kinds, len(kinds)) for kinds in (OUTLIVED, ENDING, MET))
    patient = Patient(plan, tmp_path / "out", expected)
    for number in range(ROUNDS):
        sweep = patient.start()
        try:
            for kind, name in outlived[2 * number : 2 * number + 2]:
                wait_for(lambda sweep=sweep: kernels_of(sweep) or sweep.poll() is not None, seconds=300)
                time.sleep(chance.uniform(0, 4))
                patient.strike(sweep, kind, name, chance)
            time.sleep(chance.uniform(0, 4))
            patient.end(sweep, ending[number])
        finally:
            sweep.kill()
        patient.harm(met[number], chance)
    patient.cure()
    wrong = {name: patient.wrong[name] for name in ("lost", "doubled", "torn", "wrong", "orphans")}
    faults, seconds = patient.faults, time.monotonic() - start
    record_property("faults", f"part {part}: {faults.total()} in {seconds:.0f} s, {dict(faults)}; found {wrong}")
    assert faults.total() == 4 * ROUNDS
    assert not any(wrong.values()), wrong
