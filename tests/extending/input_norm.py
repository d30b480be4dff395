"""A method from elsewhere: columns count by the root mean square of their input, as in Wanda's scores.

Its entry point is ``input-norm = "input_norm:METHOD"`` in the group ``autolr.methods``.
"""

from autolr.methods.shrinkage import required
from autolr.methods.weighted_svd import weighted_svd
from autolr.types import Method


def decompose(weight, stats):
    return weighted_svd(weight, right_gram=required(stats, "input-norm").in_gram.diagonal())


METHOD = Method("input-norm", 1, frozenset({"moments"}), decompose, "after Sun et al. 2024, arXiv 2306.11695")
