"""The numbers within the sentences of verdicts, which say what they compare: read, and computed again."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from recomputation.recorded_scores import LEVEL, METHOD, Effect, Records, holm, short
from recomputation.written_numbers import NUMBER, Comparisons

MIN_PAIRS = 6
COLUMNS = {"mean": "points", "failed fraction": "failed", "probability of improvement": "wins"}
COLUMNS |= {"distance": "log distance", "std": "std", "median": "median", "max": "max"}
SENTENCE = re.compile(
    rf"the (?P<statistic>{'|'.join(COLUMNS)}) of (?P<ours>{METHOD}) "
    r"on (?P<tasks>\w+(?:, \w+)*)(?: with (?P<settings>\S+(?: and \S+)*))? "
    rf"is (?P<value>{NUMBER}|nan)(?: \[(?P<low>{NUMBER}), (?P<high>{NUMBER})\])? points "
    rf"(?P<side>higher|lower) than that of (?P<theirs>{METHOD}) \((?P<pairs>\d+) pairs"
    rf"(?:; t test p = (?P<t_p_of_family>{NUMBER}), (?P<t_p>{NUMBER}) over all)?"
    rf"(?:; permutation p = (?P<p_of_family>{NUMBER}), (?P<p>{NUMBER}) over all"
    rf"(?:, at least (?P<floor>{NUMBER}) with so few pairs)?)?\), "
    r"where \S+ (?P<claimed>higher|lower|either way) would count"
)
CONTROL = re.compile(
    rf"the control (?P<control>{METHOD})(?: with (?P<changes>.+?))? gains ({NUMBER}) \[({NUMBER}), ({NUMBER})\], "
    rf"the method ({NUMBER}) \[({NUMBER}), ({NUMBER})\] beyond it"
)
BY_TASK = re.compile(rf"(\w+) ({NUMBER}) \[({NUMBER}), ({NUMBER})\] \((\d+) pairs\)")
Settings = dict[str, float]


def settings_in(words: str) -> Settings:
    """Read settings such as "bias_correction=False and learning_rate=0.0002"."""
    given = dict(setting.split("=") for setting in words.split(" and ") if setting)
    return {name: value == "True" if name == "bias_correction" else float(value) for name, value in given.items()}


def in_words(settings: Mapping[str, float]) -> str:
    """Return settings as the words of an arm that stand after its method."""
    rate = f" at {settings['learning_rate']}" if "learning_rate" in settings else ""
    epochs = f" for {settings['epochs']:.0f} epochs" if "epochs" in settings else ""
    assert settings.keys() <= {"learning_rate", "epochs", "bias_correction"}, settings
    return rate + " uncorrected" * (not settings.get("bias_correction", True)) + epochs


class Study:
    """A sentence and the comparison that it is about; effects are positive in the direction of the claim.

    `p` and `t_p` are corrected over the `tests` of all sentences about claims of papers or of those about our own
    (`is_ours`), whose models are never smaller than claimed. They are NaN where there is no such test.
    """

    def __init__(self, sentence: str, records: Records, encoder: str) -> None:
        found = SENTENCE.search(sentence)
        assert found, sentence
        self.sentence, self.written, self.records, self.encoder = sentence, found.groupdict(""), records, encoder
        self.tasks, self.column = [task + encoder for task in found["tasks"].split(", ")], COLUMNS[found["statistic"]]
        self.is_ours = " at reduced scale: " not in sentence
        ours, theirs, settings = short(found["ours"]), short(found["theirs"]), found["settings"] or ""
        self.comparison = ours, theirs, frozenset(self.tasks), self.column, frozenset(settings.split(" and "))
        self.settings = self.settings_of(ours, settings_in(settings))
        self.full_settings = records.recipes[self.tasks[0]] | self.settings
        self.recipe = in_words(self.settings)
        self.ours, self.theirs = ours + self.recipe, theirs + self.recipe
        self.sign = -1 if found["claimed"] == "lower" else 1
        self.effect = self.compare(self.ours, self.theirs, self.tasks)
        self.is_tested = self.effect.pairs >= MIN_PAIRS and found["claimed"] != "either way"
        self.p, self.t_p, self.tests = math.nan, math.nan, 0

    def settings_of(self, method: str, given: Settings) -> Settings:
        """Return the settings that are given, or all of the only recipe with these where the main one was not run."""
        run = [found for found in self.records.settings_of(self.tasks[0], method) if given.items() <= found.items()]
        is_main = self.records.recipes[self.tasks[0]] | given in run
        return run[0] if len(run) == 1 and not is_main else given

    def changed(self, changes: str) -> Settings:
        """Return the settings after changes in words, "bias_correction=True" or "6 times the epochs"."""
        changed = dict(self.settings)
        for change in changes.split(" and "):
            factor, times, name = change.partition(" times the ")
            name = name.replace(" ", "_")
            changed |= {name: float(factor) * self.full_settings[name]} if times else settings_in(change)
        return changed

    def compare(self, ours: str, theirs: str, tasks: Sequence[str]) -> Effect:
        return self.records.compare(tasks, ours, theirs, self.column).times(self.sign)

    def gains(self, control: str) -> tuple[Effect, Effect]:
        """Return what a control gains over the baseline, and the method over the control.

        The control is an arm in words, where {same} is the recipe of the method, {rate} its rate, and {shorter} the
        rate whose steps are as short as those of Child-Tuning.
        """
        rate = self.full_settings["learning_rate"]
        control = control.format(same=self.recipe, rate=rate, shorter=0.5477 * rate)
        return self.compare(control, self.theirs, self.tasks), self.compare(self.ours, control, self.tasks)

    @property
    def floor(self) -> float:
        """The smallest corrected p-value that the permutation test can have."""
        return self.tests * 2.0 ** (1 - self.effect.pairs)

    @property
    def deciding_p(self) -> float:
        """The larger p-value; that of the t test alone where the permutation test can decide nothing."""
        if math.isnan(self.t_p):
            return self.p
        return self.t_p if self.floor > LEVEL else max(self.p, self.t_p)


def read_studies(text: str, records: Records, encoder: str = "") -> list[Study]:
    """Return the studies of a cell's sentences with their corrected p-values; a comparison made twice counts once."""
    studies = [Study(line, records, encoder) for line in text.split("\n* ") if " would count; " in line]
    for is_ours in (True, False):
        family = [study for study in studies if study.is_ours == is_ours]
        tested = {study.comparison: study.effect for study in family if study.is_tested}
        for name in ("p", "t_p"):
            p_values = {made: getattr(effect, name) for made, effect in tested.items()}
            if name == "t_p":
                p_values = {made: p for made, p in p_values.items() if made[3] in ("points", "log distance")}
            corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
            for study in family:
                setattr(study, name, corrected.get(study.comparison, math.nan))
        for study in family:
            study.tests = len(tested)
    return studies


def check_study(place: str, study: Study, comparisons: Comparisons) -> None:
    written = study.written
    as_written = study.effect.times(study.sign * (1 if written["side"] == "higher" else -1))
    what = f"{study.ours} against {study.theirs} on {', '.join(study.tasks)}, {written['statistic']}"
    check_effect(place, what, [written[name] for name in ("value", "low", "high", "pairs")], as_written, comparisons)
    p_values = {"p": study.p, "t_p": study.t_p}
    if study.is_ours:
        bound = study.floor if not math.isnan(study.p) and study.floor > LEVEL else math.nan
        p_values |= {"p_of_family": study.p, "t_p_of_family": study.t_p, "floor": bound}
    for name, p in p_values.items():
        comparisons.check(place, f"{what}, {name.replace('_', ' ')}", written[name], p)
    for task, *numbers in BY_TASK.findall(study.sentence):
        effect = study.compare(study.ours, study.theirs, [task + study.encoder])
        check_effect(place, f"{what}: {task}", numbers, effect, comparisons)
    if found := CONTROL.search(study.sentence):
        control, changes, *numbers = found.groups()
        arm = short(control) + (in_words(study.changed(changes)) if changes else study.recipe)
        for effect, part in zip(study.gains(arm), (numbers[:3], numbers[3:]), strict=True):
            check_effect(place, f"{what}: {control}", part, effect, comparisons)


def check_effect(place: str, what: str, written: Sequence[str], effect: Effect, comparisons: Comparisons) -> None:
    for text, value in zip(written, (effect.value, effect.low, effect.high, effect.pairs), strict=False):
        comparisons.check(place, what, text, value)


def row_of(study: Study, control: str | None) -> dict[str, float]:
    """Return the numbers of a study's row in the table of our studies."""
    effect = study.effect
    row = {"effect": effect.value, "from": effect.low, "to": effect.high, "pairs": effect.pairs}
    control_gains, beyond = (e.value for e in study.gains(control)) if control else (math.nan, math.nan)
    return row | {"holm": study.deciding_p, "control": control_gains, "beyond it": beyond}
