"""Lengths that costs are stated for."""


def rounded_length(mean: float, longest: int) -> int:
    """Return a mean length rounded up to a multiple of 8, at most the longest.

    Example:
        >>> rounded_length(27.3, 512), rounded_length(27.3, 30)
        (32, 30)
    """
    return min(longest, -(-int(mean + 0.5) // 8) * 8)
