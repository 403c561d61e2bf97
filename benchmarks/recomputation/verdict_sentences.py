"""The numbers within the sentences of verdicts, which say what they compare: read, and computed again."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from recomputation.recorded_scores import METHOD, Effect, Records, holm, short
from recomputation.written_numbers import NUMBER, Comparisons

SENTENCE = re.compile(
    rf"the (?P<statistic>mean|failed fraction|probability of improvement) of (?P<ours>{METHOD}) "
    r"on (?P<tasks>\w+(?:, \w+)*)(?: with (?P<settings>\S+(?: and \S+)*))? "
    rf"is (?P<value>{NUMBER}) \[(?P<low>{NUMBER}), (?P<high>{NUMBER})\] points "
    rf"(?P<side>higher|lower) than that of (?P<theirs>{METHOD}) \((?P<pairs>\d+) pairs; "
    rf"(?:t test p = {NUMBER}, (?P<t_p>{NUMBER}) over all; )?permutation p = {NUMBER}, (?P<p>{NUMBER}) over all\), "
    r"where \S+ (?P<claimed>higher|lower) would count"
)
CONTROL = re.compile(
    rf"the control (?P<control>{METHOD})(?: with (?P<changes>\S+))? gains ({NUMBER}) \[({NUMBER}), ({NUMBER})\], "
    rf"the method ({NUMBER}) \[({NUMBER}), ({NUMBER})\] beyond it"
)
BY_TASK = re.compile(rf"(\w+) ({NUMBER}) \[({NUMBER}), ({NUMBER})\] \((\d+) pairs\)")
COLUMNS = {"mean": "points", "failed fraction": "failed", "probability of improvement": "wins"}


class Study:
    """A sentence and the comparison that it is about; effects are positive in the direction of the claim.

    `p` and `t_p` are corrected over all sentences, the latter NaN where there is no t test.
    """

    def __init__(self, sentence: str, records: Records) -> None:
        found = SENTENCE.search(sentence)
        assert found, sentence
        self.sentence, self.written, self.records = sentence, found.groupdict(), records
        self.tasks, self.column = found["tasks"].split(", "), COLUMNS[found["statistic"]]
        settings = found["settings"] or ""
        rate = re.search(r"learning_rate=(\S+)", settings)
        self.rate = float(rate[1] if rate else records.main_runs[self.tasks[0]].rate.iloc[0])
        self.recipe = f" at {self.rate}" + " uncorrected" * ("bias_correction=False" in settings)
        self.ours, self.theirs = short(found["ours"]) + self.recipe, short(found["theirs"]) + self.recipe
        self.sign = 1 if found["claimed"] == "higher" else -1
        self.effect = self.compare(self.ours, self.theirs, self.tasks)
        self.p, self.t_p = self.effect.p, self.effect.t_p if self.column == "points" else math.nan

    def compare(self, ours: str, theirs: str, tasks: Sequence[str]) -> Effect:
        return self.records.compare(tasks, ours, theirs, self.column).times(self.sign)

    def gains(self, control: str) -> tuple[Effect, Effect]:
        """Return what a control gains over the baseline, and the method over the control.

        The control is an arm in words, where {same} is the recipe of the method, {rate} its rate, and {shorter} the
        rate whose steps are as short as those of Child-Tuning.
        """
        control = control.format(same=self.recipe, rate=self.rate, shorter=0.5477 * self.rate)
        return self.compare(control, self.theirs, self.tasks), self.compare(self.ours, control, self.tasks)


def read_studies(text: str, records: Records) -> list[Study]:
    """Return the studies of a cell's sentences; their p-values are corrected together, each comparison counted once."""
    studies = [Study(line, records) for line in text.split("\n* ") if re.search(r"\d \[", line)]
    for name in ("p", "t_p"):
        tested = {(s.ours, s.theirs, *s.tasks, s.column): getattr(s, name) for s in studies}
        tested = {key: p for key, p in tested.items() if not math.isnan(p)}
        corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
        for study in studies:
            setattr(study, name, corrected.get((study.ours, study.theirs, *study.tasks, study.column), math.nan))
    return studies


def check_study(place: str, study: Study, comparisons: Comparisons) -> None:
    written = study.written
    as_written = study.effect.times(study.sign * (1 if written["side"] == "higher" else -1))
    what = f"{study.ours} against {study.theirs} on {', '.join(study.tasks)}"
    check_effect(place, what, [written[name] for name in ("value", "low", "high", "pairs")], as_written, comparisons)
    comparisons.check(place, f"{what}, p", written["p"], study.p)
    comparisons.check(place, f"{what}, p of the t test", written["t_p"] or "", study.t_p)
    for task, *numbers in BY_TASK.findall(study.sentence):
        check_effect(place, f"{what}: {task}", numbers, study.compare(study.ours, study.theirs, [task]), comparisons)
    if found := CONTROL.search(study.sentence):
        control, changes, *numbers = found.groups()
        same = study.recipe if not changes else study.recipe.removesuffix(" uncorrected")
        for effect, part in zip(study.gains(short(control) + same), (numbers[:3], numbers[3:]), strict=True):
            check_effect(place, f"{what}: {control}", part, effect, comparisons)


def check_effect(place: str, what: str, written: Sequence[str], effect: Effect, comparisons: Comparisons) -> None:
    for text, value in zip(written, (effect.value, effect.low, effect.high, effect.pairs), strict=False):
        comparisons.check(place, what, text, value)


def row_of(study: Study, control: str | None) -> dict[str, float]:
    """Return the numbers of a study's row in the table of our studies."""
    effect = study.effect
    row = {"effect": effect.value, "from": effect.low, "to": effect.high, "pairs": effect.pairs}
    row["holm"] = study.p if math.isnan(study.t_p) else max(study.p, study.t_p)
    control_gains, beyond = (e.value for e in study.gains(control)) if control else (math.nan, math.nan)
    return row | {"control": control_gains, "beyond it": beyond}
