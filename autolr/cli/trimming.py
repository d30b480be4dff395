"""``autolr trim``."""

from pathlib import Path
from typing import Annotated

import typer

from autolr.cli import options as o
from autolr.cli.terminal import out, print_json, progress, reported
from autolr.spec.measuring import TRIMMING


@reported
@o.takes("model", "task", "train", "validation", "test", "to", "keep", *TRIMMING)
def trim(
    given: o.Given,
    to: Annotated[Path, typer.Option("--out", parser=o.path, help="The smaller model's directory.")],
    keep: Annotated[
        Path | None, typer.Option(parser=o.path, help="Text whose tokens stay too, such as words to come.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an older checkpoint at --out.")] = False,
    json: o.Json = False,
) -> None:
    """Write a dense model without the tokens that its data never use, for a search to begin with."""
    from autolr.workflows.resolve import resolve
    from autolr.workflows.trim import trim_model  # it imports what a model needs: that takes seconds

    spec = resolve({**given, "budget": "1x-params"}, typed=True)
    with progress() as listener:
        made = trim_model(spec, to, keep, listener, force)
    if json:
        print_json(made.to_json())
        return
    out.print(
        f"{made.tokens} of {made.tokens_before} tokens, {made.params / made.params_before:.3f}x of the parameters "
        f"({made.params} of {made.params_before}), are at {to}; all {made.texts} examples are read in the same pieces",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
