"""The records that come out of a study: members of its front, its report, its result. They are read without torch."""

from autolr.results.front import Front
from autolr.results.latency import LatencyCheck
from autolr.results.member import FrontMember, Selection, Variant
from autolr.results.relative_cost import RelativeCost
from autolr.results.report import Difference, ProbeReport, ProbeScores, RecoveryNote, Report
from autolr.results.status import Failure, StudyStatus
from autolr.results.study_result import StudyResult

__all__ = [
    "Difference",
    "Failure",
    "Front",
    "FrontMember",
    "LatencyCheck",
    "ProbeReport",
    "ProbeScores",
    "RecoveryNote",
    "RelativeCost",
    "Report",
    "Selection",
    "StudyResult",
    "StudyStatus",
    "Variant",
]
