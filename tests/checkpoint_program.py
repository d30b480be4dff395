"""Loads models in a process of its own, with autolr imported or kept from being imported.

Usage: python checkpoint_program.py PLAN.json with|without

The plan is a list of jobs {directory, auto, options, output, and where to "save" the model again, if anywhere}; it is
rewritten with what became of each: the classes of the model ("class") and of the low-rank layers ("layers") and the
model's output in the file ``output``, or the "error"; and what transformers logged ("log").
"""

import builtins
import importlib.abc
import json
import logging
import sys
from pathlib import Path


class Blocker(importlib.abc.MetaPathFinder):
    """Makes a Python in which autolr is not installed."""

    def find_spec(self, fullname, path, target=None):
        if fullname.partition(".")[0] == "autolr":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def never_ask(prompt=""):
    raise AssertionError(f"transformers asked: {prompt}")


class Log(logging.Handler):
    """Keeps what is logged."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def run(job):
    import transformers

    log = Log()
    transformers.utils.logging.add_handler(log)
    try:
        done = loaded(job)
    finally:
        transformers.utils.logging.remove_handler(log)
    return {**done, "log": "\n".join(log.lines)}


def loaded(job):
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    try:
        model = getattr(transformers, job["auto"]).from_pretrained(job["directory"], **job["options"])
    except Exception as error:  # noqa: BLE001  # which one is what the tests ask
        return {**job, "error": f"{type(error).__name__}: {error}"}
    with torch.no_grad():
        outputs = model.eval()(**load_file(job["batch"]))
    save_file({"output": outputs.get("logits", outputs.get("last_hidden_state")).contiguous()}, job["output"])
    if "save" in job:
        model.save_pretrained(job["save"])
    layers = {f"{type(m).__module__}.{type(m).__name__}" for m in model.modules() if hasattr(m, "kind")}
    return {**job, "class": f"{type(model).__module__}.{type(model).__name__}", "layers": sorted(layers)}


if __name__ == "__main__":
    if sys.argv[2] == "with":
        import autolr  # noqa: F401  # for what importing it does
    else:
        sys.meta_path.insert(0, Blocker())
    builtins.input = never_ask
    plan = Path(sys.argv[1])
    plan.write_text(json.dumps([run(job) for job in json.loads(plan.read_text())]))
