"""A recovery of a third party: shifts each compressed layer's bias until its mean output is the dense layer's."""

import torch

from autolr.forms.swap import compressed
from autolr.recovery.base import Recovery


def compute(model, candidate, source, batches, tick):
    names = [module for name, _ in candidate.choices for module in source.unit(name).modules]
    if not names:
        return {}
    wanted = mean_outputs(model, names, batches)
    tick(0.5)
    with compressed(model, candidate, source):
        given = mean_outputs(model, names, batches)
        biases = {name: model.get_submodule(name).bias.shape for name in names}
    tick(1.0)
    # Not what makes fewer neurons, or fewer entries of heads.
    whole = [name for name in names if wanted[name].shape == given[name].shape == biases[name]]
    return {f"{name}/shift": wanted[name] - given[name] for name in whole}


def apply(model, tensors):
    for name, shift in tensors.items():
        layer = model.get_submodule(name.removesuffix("/shift"))
        with torch.no_grad():
            layer.bias.add_(shift.to(layer.bias))


@torch.no_grad()
def mean_outputs(model, names, batches):
    sums, count = dict.fromkeys(names, 0.0), 0
    for batch in batches:
        live = batch["attention_mask"].bool()
        count += int(live.sum())

        def add(name, live=live):
            def hook(_layer, _inputs, output):
                whole = output.dim() == 3
                sums[name] = sums[name] + (output[live] if whole else output).sum(0)

            return hook

        hooks = [model.get_submodule(name).register_forward_hook(add(name)) for name in names]
        model(**{key: value for key, value in batch.items() if key != "labels"})
        for handle in hooks:
            handle.remove()
    return {name: total / count for name, total in sums.items()}


RECOVERY = Recovery("bias", 1, "shift the biases alone", "given another bias", compute, apply, examples=32)
