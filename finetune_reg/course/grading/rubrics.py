"""What a teacher looks for in the answers that no check can judge, by the heading of the task; one point a line."""

from __future__ import annotations

RUBRICS: dict[str, list[str]] = {
    "3. Experiment: the trap behind clipping": [
        "Measured: with clipping at 1.0 the first gradient's norm stays at the limit for any number of micro-batches.",
        "Explained: clipping divides the factor out, because the direction of the gradient is right.",
        "Named: something that still sees it, such as a norm before clipping, or a loss added to the task's.",
    ],
    "4. Experiment: which seed does it?": [
        "Measured: two sets of runs in which one seed alone varies, the other seeds equal in all of them.",
        "Compared: the spread of both, with the runs that failed told apart from the others.",
        "Bounded: six runs each give a rough standard deviation, so that only a large ratio would be sure.",
    ],
    "4. Experiment: mixconnect": [
        "Measured: runs with `granularity='weight'`, beside runs of mixout on equal seeds.",
        "Reported: the difference with its interval, and not a mean alone.",
        "Concluded: whether these seeds decide anything, and how many would.",
    ],
    "4. Experiment: how much of it is confidence?": [
        "Measured: the loss of at least three settings on held-out rows, as it is and at a temperature, over seeds.",
        "Kept apart: the rows that choose a temperature are not those on which the loss is measured.",
        "Concluded: which part of the differences a temperature removes, and what so few seeds can say of the rest.",
    ],
    "4. Experiment: one rate for all": [
        "Measured: all three settings at all three rates, on equal seeds.",
        "Compared: the order of the settings at one rate with that of their best rates.",
        "Concluded: equal numbers of tries, and rates chosen on rows that do not judge, are fixed beforehand.",
    ],
    "3. Experiment: fewer and more seeds": [
        "Measured: the verdict with 3, 4, 5 and more recorded seeds, and where it changes.",
        "Measured: verdicts of invented runs with 10, 15 and 20 seeds, for several draws of the noise.",
        "Concluded: the number of seeds is fixed beforehand, because the verdict can be chosen by adding some.",
        "Kept apart: invented runs are named as such and count as no evidence.",
    ],
}
