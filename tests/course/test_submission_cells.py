"""What a notebook says about its checks before it is executed."""

from __future__ import annotations

import pytest

from finetune_reg.course.grading.submission_cells import changed_checks, course_checks, hand_read_tasks


@pytest.mark.parametrize(
    ("cells", "changed"),
    [
        (['def correct(p):\n    return p\n\ncheck("holm", correct, strict_exercises)'], []),
        (['_ = check("holm", correct, strict_exercises)'], []),
        (['check("holm", lambda p: [0.02, 0.04], strict_exercises)'], ["holm"]),
        (['if True:\n    check("holm", correct, strict_exercises)'], ["holm"]),
        (['check("holm", correct, strict_exercises)'] * 2, ["holm"]),
        ([], ["holm"]),
        (["def check(*_): ...", 'check("holm", correct, strict_exercises)'], ["holm"]),
        (["import finetune_reg.course.exercises as e", 'check("holm", correct, strict_exercises)'], ["holm"]),
        (["from finetune_reg.course.exercises import results", 'check("holm", correct, strict_exercises)'], ["holm"]),
        (["from finetune_reg import course", 'check("holm", correct, strict_exercises)'], ["holm"]),
        (["sys.modules['finetune_reg.course']", 'check("holm", correct, strict_exercises)'], ["holm"]),
        (["finetune_reg.course.exercises", 'check("holm", correct, strict_exercises)'], ["holm"]),
        (["from finetune_reg.course.exercises import check", 'check("holm", correct, strict_exercises)'], []),
    ],
)
def test_checks_that_are_not_the_courses_are_named(cells, changed):
    assert changed_checks(cells, {"holm": course_checks()["holm"]}) == changed


def test_tasks_without_a_check_are_known_from_the_headings():
    tasks = hand_read_tasks()
    assert tasks["fewest-pairs"] == ["4. Experiment: which seed does it?"]
    assert tasks["seeds-needed"] == ["4. Experiment: mixconnect"]
    assert tasks["half-life-of-the-pull"] == []
