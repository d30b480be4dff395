"""A format of a third party that transformers cannot load: one file of tensors, read by ten lines of its own."""

from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from autolr.checkpoint.directory import replaced_directory
from autolr.checkpoint.formats import Format
from autolr.checkpoint.save import compressed_layers
from autolr.checkpoint.verify import Reloaded

FILE = "tensors.plain"


def write(model, tokenizer, card, directory):
    layers = compressed_layers(model)
    own = tuple(f"{name}." for name in layers)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith(own)}
    for name, layer in layers.items():
        state[f"{name}.left.weight"], state[f"{name}.right.weight"] = layer.outer_weight, layer.inner_weight
        state[f"{name}.left.bias"] = layer.bias
    with replaced_directory(directory) as new:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, new / FILE)
        (new / "README.md").write_text(card)


def reload(directory, model):
    with safe_open(directory / FILE, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    again = type(model)(model.config).eval()
    for name in [name.removesuffix(".left.weight") for name in state if name.endswith(".left.weight")]:
        left, right = state[f"{name}.left.weight"], state[f"{name}.right.weight"]
        factors = {"right": nn.Linear(right.shape[1], right.shape[0], bias=False), "left": nn.Linear(*left.shape[::-1])}
        again.set_submodule(name, nn.Sequential())
        for part, layer in factors.items():
            again.get_submodule(name).add_module(part, layer)
    again.load_state_dict(state)
    again.to(model.device)
    return Reloaded(lambda batch: again(**batch).logits)


FORMAT = Format(
    name="plain",
    help="one file of tensors",
    write=write,
    reload=reload,
    loading=f"Read `{FILE}` by safetensors.",
    tolerance={"float32": 1e-5},
)
