"""An engine of a third party: PyTorch in double precision."""

from functools import partial

import torch

from autolr.checkpoint.load import load_checkpoint
from autolr.cost.forward import forward_inputs
from autolr.engines import Engine, Session


def open_session(source, settings):
    model = load_checkpoint(source, dtype=torch.float64)
    return Session(torch.inference_mode()(lambda batch: model(**batch)), partial(forward_inputs, model), 64)


ENGINE = Engine("double", "PyTorch in double precision", "", open_session)
