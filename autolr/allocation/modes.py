"""Units that share a module exclude one another: the menus of all that can be done to them become one.

Query and key can be compressed each for itself or jointly, a feed-forward pair matrix by matrix or by dropping neurons.
Such alternatives are the modes of their modules: sets of units of which no two share a module. What a mode offers is
the sum of its units' menus (an option of each, losses and costs added up); what the modules offer is the union of the
modes, one item of the same multiple-choice knapsack. Modes are not listed one by one: what excludes nothing is added
up, what excludes one another is united, part by part. Options that another one beats in loss and in every budgeted cost
are dropped on the way, so that sums stay small; none that a solution could need is lost. Only menus of more options
than ``MOST_JOINED`` are thinned before they are added up: hundreds of ranks, to those that are best for their cost.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from autolr.allocation.knapsack import DEFAULT_GAP, Allocation, Menu, allocate, unbeaten
from autolr.records import Unit

MOST_JOINED = {1: 80, 2: 32}
"""Number of budgets (2: or more) -> options of a menu that are added to those of another."""


def allocate_modes(
    menus: Sequence[Menu], units: Mapping[str, Unit], limits: Mapping[str, float], gap: float = DEFAULT_GAP
) -> Allocation:
    """Solve the knapsack over menus of units of which some exclude one another.

    Where there are several budgets, one alone often decides: what is best within it meets the others, and nothing that
    meets all can be better. That takes milliseconds, all of them at once up to seconds.

    Args:
        menus: one for each unit.
        units: by name.
        limits: quantity -> the largest sum of relative costs allowed.
        gap: relative optimality gap to prove.

    Raises:
        BudgetError: no candidate meets all limits.
    """
    if len(limits) > 1:
        for quantity, limit in limits.items():
            alone = allocate(exclusive(menus, units, [quantity]), {quantity: limit}, gap)
            if all(alone.cost[other] <= limits[other] for other in limits):
                return alone
    return allocate(exclusive(menus, units, sorted(limits)), limits, gap)


def exclusive(menus: Sequence[Menu], units: Mapping[str, Unit], quantities: Sequence[str]) -> list[Menu]:
    """Return menus of which any options go together, in the order of the first unit of each.

    Args:
        menus: one for each unit.
        units: by name.
        quantities: what is budgeted; an option that is beaten in all of them and in loss is dropped from joined menus.

    Returns:
        The menus themselves where no two units share a module.
    """
    places = range(len(menus))
    modules = [set(units[menu.name].modules) for menu in menus]
    exclusions = [{other for other in places if other != place and modules[place] & modules[other]} for place in places]
    return [joined(menus, group, exclusions, quantities) for group in apart(places, exclusions)]


def joined(
    menus: Sequence[Menu], group: Sequence[int], exclusions: Sequence[set[int]], quantities: Sequence[str]
) -> Menu:
    """Return all that units offer which exclude one another, each at most once.

    The unit that excludes most others is in turn left out, and taken with what does not exclude it; each of these is
    smaller, and falls into parts that are joined by themselves.

    Args:
        menus: one for each unit.
        group: places of those that are joined, rising, each reached from every other by exclusions.
        exclusions: of each place, the places that it excludes; symmetric.
        quantities: what is budgeted.
    """
    if len(group) == 1:
        return menus[group[0]]
    first = max(group, key=lambda place: len(exclusions[place] & set(group)))
    with_it = [place for place in group if place not in exclusions[first] and place != first]
    without = [place for place in group if place != first]

    def offered(rest: Sequence[int]) -> list[Menu]:
        return [joined(menus, part, exclusions, quantities) for part in apart(rest, exclusions)]

    modes = [total(offered(without), quantities), total([menus[first], *offered(with_it)], quantities)]
    return union(modes, quantities)


def apart(places: Sequence[int], exclusions: Sequence[set[int]]) -> list[list[int]]:
    """Return the parts of some places between which nothing is excluded, in the order of the first place of each.

    Args:
        places: rising.
        exclusions: of each place, the places that it excludes; symmetric.

    Example:
        >>> apart([0, 1, 2, 3], [{2}, set(), {0}, {4}])
        [[0, 2], [1], [3]]
    """
    parts, left = [], list(places)
    while left:
        reached, new = {left[0]}, {left[0]}
        while new:
            new = {other for place in new for other in exclusions[place] if other in left} - reached
            reached |= new
        parts.append(sorted(reached))
        left = [place for place in left if place not in reached]
    return parts


def total(menus: Sequence[Menu], quantities: Sequence[str]) -> Menu:
    """Return what several units offer together: an option of each, without those that another one beats.

    Args:
        menus: of units that share no module.
        quantities: what is budgeted.
    """
    first, *others = (menu.pruned(quantities) for menu in menus)
    for other in others:
        first, menu = thinned(first, quantities), thinned(other, quantities)
        loss = np.add.outer(first.loss, menu.loss).ravel()
        cost = {q: np.add.outer(amounts, menu.cost[q]).ravel() for q, amounts in first.cost.items()}
        index = unbeaten(loss, [cost[q] for q in quantities])
        places = zip(*(place.tolist() for place in np.divmod(index, len(menu.options))), strict=True)
        options = tuple((*first.options[i], *menu.options[j]) for i, j in places)
        first = Menu(f"{first.name} + {menu.name}", options, loss[index], {q: c[index] for q, c in cost.items()})
    return first


def thinned(menu: Menu, quantities: Sequence[str]) -> Menu:
    """Return a menu of at most :data:`MOST_JOINED` options, evenly over what they cost of the first quantity.

    Of those that cost about the same the one of least loss stays, and so do the cheapest and the dearest.
    """
    most = MOST_JOINED[min(len(quantities), 2)]
    if len(menu.options) <= most:
        return menu
    cost = menu.cost[quantities[0]]
    share = (cost - cost.min()) / (float(np.ptp(cost)) or 1.0)
    bucket = np.minimum((share * (most - 2)).astype(int), most - 3)
    order = np.lexsort((menu.loss, bucket))
    best = order[np.unique(bucket[order], return_index=True)[1]]
    return menu.kept(np.union1d(best, [int(cost.argmin()), int(cost.argmax())]))


def union(modes: Sequence[Menu], quantities: Sequence[str]) -> Menu:
    """Return what several modes offer of which one is taken."""
    return Menu(
        " | ".join(mode.name for mode in modes),
        tuple(option for mode in modes for option in mode.options),
        np.concatenate([mode.loss for mode in modes]),
        {quantity: np.concatenate([mode.cost[quantity] for mode in modes]) for quantity in modes[0].cost},
    ).pruned(quantities)
