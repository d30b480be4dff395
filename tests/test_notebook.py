"""The Python API does all of a study's work in one process, from objects, and says nothing unless asked."""

import subprocess
import sys
from pathlib import Path


def test_the_notebook_runs_from_its_first_line_to_its_last_and_prints_only_what_it_prints_itself() -> None:
    script = Path(__file__).parent / "notebook.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Study(")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
