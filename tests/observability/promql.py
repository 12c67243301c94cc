"""What an expression of Prometheus asks for, as far as tests compare it with what there is."""

import re

_WORDS = {"and", "or", "unless", "offset", "bool"}
_NAME = r"\b([a-zA-Z_:][\w:]*)\b(?!\s*\()\s*(?:\{([^}]*)\})?"


def selectors_in(expression):
    """
    (metric, what is in the braces behind it, or "") of each selector. When all else of the language
    has been taken away, what is left are the names of metrics.
    """
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", expression)
    text = re.sub(r"\[[^]]*\]|\boffset\s+\S+", " ", text)
    return [pair for pair in re.findall(_NAME, text) if pair[0] not in _WORDS]


def metrics_in(expression):
    return {metric for metric, _ in selectors_in(expression)}
