"""Probabilities of the binomial, beta and Student's t distributions, with Python alone.

The load generator runs where there is no SciPy. All rest on one function, the regularised incomplete beta function.
"""

from collections.abc import Callable
from math import exp, inf, lgamma, log, log1p, sqrt

_CLOSE = 1e-14
_TINY = 1e-300
_HALVINGS = 200
"""Of an interval of floats: more than any needs until its ends are neighbours."""


def beta_below(x: float, a: float, b: float) -> float:
    """The probability that a Beta(a, b) variable is below `x`: the regularised incomplete beta function I_x(a, b)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x))
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of I_x(a, b), by Lentz's method; it needs about √max(a, b) terms."""
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 100 + 20 * int(sqrt(max(a, b)))):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _not_zero(1 + term * d)
            c = _not_zero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < _CLOSE:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def beta_quantile(share: float, a: float, b: float) -> float:
    """The value that a Beta(a, b) variable is below with the probability `share`."""
    return _root(lambda x: beta_below(x, a, b) - share, 0.0, 1.0)


def binomial_at_most(k: int, n: int, p: float) -> float:
    """The probability of at most `k` successes in `n` trials that each succeed with `p`."""
    return 1.0 if k >= n else beta_below(1 - p, n - k, k + 1)


def t_below(t: float, df: float) -> float:
    """The probability that Student's t with `df` degrees of freedom is below `t`."""
    tail = beta_below(df / (df + t * t), df / 2, 0.5) / 2
    return tail if t < 0 else 1 - tail


def t_two_sided(t: float, df: float) -> float:
    """The probability of a t at least as far from 0."""
    return 0.0 if abs(t) == inf else beta_below(df / (df + t * t), df / 2, 0.5)


def t_quantile(share: float, df: float) -> float:
    """The value that Student's t is below with the probability `share`, which lies between 0 and 1."""
    if share < 0.5:  # noqa: PLR2004 - the middle
        return -t_quantile(1 - share, df)
    high = 2.0
    while t_below(high, df) < share:
        high *= 2
    return _root(lambda t: t_below(t, df) - share, 0.0, high)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function is 0, by halving."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in {low, high}:
            break
        if function(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
