"""The command starts quickly: planning and watching sweeps import PyTorch, and no other large library."""

from __future__ import annotations

import subprocess
import sys

LARGE = ("transformers", "datasets", "pandas", "scipy", "sklearn", "distributed", "matplotlib", "papermill")
PLANNING = """
import sys
from unittest import mock
from finetune_reg.cli import main
for arguments in (["--help"], ["methods", "mixout"], ["sweep", "plan", "pocket"], ["sweep", "status", "nowhere"]):
    with mock.patch.object(sys, "argv", ["finetune-reg", *arguments]):
        try:
            main()
        except SystemExit:
            pass
print("\\nloaded:", *(name for name in sys.argv[1:] if name in sys.modules))
"""


def test_planning_and_watching_import_no_large_library_but_pytorch(tmp_path):
    command = [sys.executable, "-c", PLANNING, *LARGE]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert finished.stdout.splitlines()[-1].strip() == "loaded:", finished.stdout + finished.stderr
    assert "holds no sweep" in finished.stderr
