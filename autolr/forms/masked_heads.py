"""The form ``masked-heads``: attention keeps the heads whose masks matter most, each scaled.

Source: Kwon et al. 2022 (arXiv 2204.09656).
"""

from autolr.forms.heads import HeadsForm

NAME = "masked-heads"


class MaskedHeads(HeadsForm):
    """The heads of an attention that stay by the Fisher information of their masks."""

    name = NAME
    scale = NAME
    methods = ("fisher-heads",)


FORM = MaskedHeads()
