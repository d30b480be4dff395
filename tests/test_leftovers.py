"""What killed processes leave is cleared away, and nothing that is in use."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autolr.machine import locks
from autolr.machine.temporary import passing_folder
from autolr.optimization.workers.payload import BANK, UNUSED_SECONDS, sweep_banks


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_uses_is_not(tmp_path: Path) -> None:
    (other_kind := tmp_path / "statistics").mkdir()
    program = "import sys, time\nfrom pathlib import Path\nfrom autolr.machine.temporary import passing_folder\n"
    program += "with passing_folder(Path(sys.argv[1]), 'work-') as folder:\n"
    program += "    print(folder, flush=True); time.sleep(60)"
    killed = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    left = Path(killed.stdout.readline().strip())
    with passing_folder(tmp_path, "work-") as mine:
        assert left.is_dir()
        killed.kill()
        killed.wait()
        with passing_folder(tmp_path, "work-") as other:
            assert not left.exists()
            assert mine.is_dir()
            assert mine != other
    assert list(tmp_path.glob("[!.]*")) == [other_kind]
    killed.stdout.close()


def test_banks_that_no_worker_has_opened_for_a_week_are_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    banks = {name: locks.own_folder() / f"{BANK}{name}" for name in ("old", "young", "own")}
    for name, bank in banks.items():
        bank.mkdir()
        (bank / "content").write_text("x")
        age = UNUSED_SECONDS + (-60 if name == "young" else 60)
        os.utime(bank, (time.time() - age, time.time() - age))
    sweep_banks(besides=banks["own"].name)
    assert [name for name, bank in banks.items() if bank.exists()] == ["young", "own"]
