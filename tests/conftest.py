"""Tiny encoders and batches; no network; one torch thread."""

from __future__ import annotations

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from tiny_encoders import ENCODERS, tiny_dataset, tiny_encoder
from tiny_world import write_model, write_tasks

torch.set_num_threads(1)
pytest.register_assert_rewrite("exercise_attempts")
START_PROCESSES = ("sweep", "course")  # folders whose tests take longest: they come first


@pytest.fixture(params=ENCODERS)
def architecture(request) -> str:
    return request.param


@pytest.fixture
def encoder(architecture):
    return tiny_encoder(architecture)


@pytest.fixture
def dataset():
    return tiny_dataset()


def pytest_collection_finish():
    """Take what is imported out of garbage collection: the Trainer collects at each end, else 0.3 s of a run's 0.4."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.parent.name not in START_PROCESSES)
    glue = os.environ.get("FINETUNE_REG_GLUE")
    for item in items:
        if item.get_closest_marker("glue") and not glue:
            item.add_marker(pytest.mark.skip(reason="FINETUNE_REG_GLUE is not set"))


def pytest_terminal_summary(terminalreporter):
    """Print what campaigns counted, in whichever process they ran."""
    for report in [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]:
        for name, counted in report.user_properties:
            terminalreporter.write_line(f"{name}: {counted}")


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory):
    """A model folder and a source folder, as keyword arguments of `RunSettings`."""
    folder = tmp_path_factory.mktemp("tiny_world")
    return {"model_name": str(write_model(folder / "model")), "source": str(write_tasks(folder / "tasks"))}
