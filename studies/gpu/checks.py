"""Part 1: pytest -m gpu. A test that begins after the part's time is over is skipped."""

import os

import pytest
from common import ROOT, Part


class Watch:
    """Counts outcomes, and skips what comes too late."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.outcomes: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
        self.reasons: dict[str, int] = {}
        self.seconds: dict[str, float] = {}

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self.part.left() < 0:
            pytest.skip("its time was over")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.partition("::")[2]
        self.seconds[name] = self.seconds.get(name, 0.0) + report.duration
        if report.when == "call" or report.outcome != "passed":
            if name not in self.outcomes["failed"]:
                self.outcomes[report.outcome].append(name)
            if report.skipped and isinstance(report.longrepr, tuple):
                reason = str(report.longrepr[2]).removeprefix("Skipped: ")
                self.reasons[reason] = self.reasons.get(reason, 0) + 1
        self.write()

    def write(self) -> None:
        slowest = sorted(self.seconds, key=lambda name: -self.seconds[name])[:5]
        self.part.write(
            passed=len(self.outcomes["passed"]),
            failed=self.outcomes["failed"],
            skipped=self.reasons,
            slowest={name: round(self.seconds[name], 1) for name in slowest},
        )


def main() -> int:
    part = Part.told()
    os.chdir(ROOT)
    arguments = ["-m", "gpu", "-n", "0", "tests/test_gpu_numbers.py", "tests/test_gpu_study.py", "--tb=short"]
    if part.rehearse:
        os.environ["AUTOLR_GPU_TESTS_ON"] = "cpu"
        arguments += ["-k", "not workers"]  # Ray takes longer to start than the rehearsal has
    return int(pytest.main(arguments, plugins=[Watch(part)]))


if __name__ == "__main__":
    raise SystemExit(main())
