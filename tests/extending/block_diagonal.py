"""A form: low rank, plus what it leaves of the weight in blocks along the diagonal; "block_diagonal:FORM"."""

import torch

from autolr.checkpoint.runtime.layers import LowRankLinear
from autolr.forms.base import Form
from autolr.forms.low_rank import Factors, fill_, rank_grid, timed_ranks
from autolr.records import Choice


class BlockDiagonalLinear(LowRankLinear):
    kind = "block-diagonal"

    def __init__(self, in_features, out_features, rank, blocks, **where):
        super().__init__(in_features, out_features, rank, **where)
        self.blocks = torch.nn.Parameter(torch.empty(blocks, out_features // blocks, in_features // blocks, **where))

    def forward(self, x):
        x_by_block = x.unflatten(-1, (len(self.blocks), -1))
        return super().forward(x) + torch.einsum("...gi,goi->...go", x_by_block, self.blocks).flatten(-2)

    def sizes(self):
        return {**super().sizes(), "blocks": len(self.blocks)}

    def dense_weight(self):
        return super().dense_weight() + torch.block_diag(*self.blocks.double())


class BlockDiagonal(Form):
    name, scale, layer = "block-diagonal", "block-diagonal", BlockDiagonalLinear
    sizes = {"rank": "rank", "blocks": "blocks"}  # noqa: RUF012

    def applies(self, unit, method):  # what blocks save is known by methods to which every weight counts alike
        return super().applies(unit, method) and not method.needs and unit.out_features % 4 == unit.in_features % 4 == 0

    def options(self, given, multiple):
        choices = [Choice.of(self.name, given.method, rank=rank, blocks=4) for rank in rank_grid(given.unit, multiple)]
        return choices, torch.stack([cut(given, choice["rank"])[-1].square().sum() for choice in choices]).numpy()

    def weights(self, unit, choice):
        return choice["rank"] * (unit.out_features + unit.in_features) + unit.weights // choice["blocks"]

    def build(self, given, choice, like):
        layer, (left, right, blocks, rest) = self.empty(given.unit, choice, like), cut(given, choice["rank"])
        fill_(layer, Factors(left, right, (rest @ given.mean.to(rest)).to(left.dtype)), given.bias)
        layer.blocks.data.copy_(blocks)
        return layer

    def timed(self, unit):
        return [Choice.of(self.name, "", rank=rank, blocks=4) for rank in timed_ranks(unit)]


def cut(given, rank):  # the factors, the blocks, and what is then still missing
    left, right = (factor.to(given.weight.device) for factor in given.decomposition.truncate(rank))
    rest = given.weight.double() - left.double() @ right.double()
    blocks = rest.unflatten(1, (4, -1)).unflatten(0, (4, -1)).diagonal(dim1=0, dim2=2).movedim(-1, 0)
    return left, right, blocks, rest - torch.block_diag(*blocks)


FORM = BlockDiagonal()
