"""The form ``masked-neurons``: a feed-forward pair keeps the neurons whose masks matter most, each scaled.

Source: Kwon et al. 2022 (arXiv 2204.09656).
"""

from autolr.forms.neurons import Neurons

NAME = "masked-neurons"


class MaskedNeurons(Neurons):
    """The neurons of a feed-forward pair that stay by the Fisher information of their masks."""

    name = NAME
    scale = NAME
    methods = ("fisher",)


FORM = MaskedNeurons()
