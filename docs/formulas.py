"""Docstrings as the site shows them: formulas as MathML, which browsers draw without any script.

An extension of griffe, which reads the docstrings for mkdocstrings. A command of TeX that it does not know is
an error: the site is not built with a formula that nobody can read.
"""

import re
from html import escape
from typing import Any

from griffe import Extension, Object

OPERATORS = {
    "cdot": "·",
    "in": "∈",
    "ldots": "…",
    "le": "≤",
    "leftarrow": "←",
    "lfloor": "⌊",
    "mapsto": "↦",
    "ne": "≠",
    "notin": "∉",
    "perp": "⊥",
    "rfloor": "⌋",
    "sim": "∼",
}
LETTERS = {
    "Delta": "Δ",
    "alpha": "α",
    "beta": "β",
    "delta": "δ",
    "ell": "ℓ",
    "epsilon": "ε",
    "varepsilon": "ε",
    "eta": "η",
    "gamma": "γ",
    "lambda": "λ",
    "mu": "μ",
    "pi": "π",
    "psi": "ψ",
    "sigma": "σ",
    "tau": "τ",
    "theta": "θ",
}
FUNCTIONS = ("cos", "exp", "log", "max", "min", "tan")
SPACES = {",": "0.17em", "quad": "1em", "qquad": "2em"}
TOKEN = re.compile(r"\\text\{[^}]*\}|\\[A-Za-z]+|\\,|\d+|\S")


def mathml(formula: str) -> str:
    """A formula of TeX as a block of MathML.

    Raises:
        ValueError: the formula has a command that is not known here, or braces that do not fit.
    """
    tokens = TOKEN.findall(formula)
    body = _row(tokens, formula)
    if tokens:
        raise ValueError(f"more braces end than begin in {formula!r}")
    return f'<div class="formula"><math display="block">{body}</math></div>'


def _row(tokens: list[str], formula: str) -> str:
    """What stands before the next closing brace, or the end."""
    parts = []
    while tokens and tokens[0] != "}":
        parts.append(_scripted(tokens, formula))
    return f"<mrow>{''.join(parts)}</mrow>"


def _scripted(tokens: list[str], formula: str) -> str:
    """One part, with what stands below and above it."""
    is_sum = tokens[0] == r"\sum"
    base, scripts = _part(tokens, formula), {}
    while tokens and tokens[0] in "_^":
        kind = tokens.pop(0)
        scripts[kind] = _part(tokens, formula)
    below, above = ("under", "over") if is_sum else ("sub", "sup")
    name = "m" + "".join(word for kind, word in (("_", below), ("^", above)) if kind in scripts)
    if not scripts:
        return base
    return f"<{name}>{base}{''.join(scripts[kind] for kind in '_^' if kind in scripts)}</{name}>"


def _part(tokens: list[str], formula: str) -> str:
    """A letter, a number, a sign, a group in braces or a command with its arguments."""
    if not tokens:
        raise ValueError(f"something is missing at the end of {formula!r}")
    token = tokens.pop(0)
    if token == "{":
        group = _row(tokens, formula)
        if not tokens:
            raise ValueError(f"more braces begin than end in {formula!r}")
        tokens.pop(0)
        return group
    if not token.startswith("\\"):
        if token.isdigit():
            return f"<mn>{token}</mn>"
        if token.isalpha():
            return f"<mi>{token}</mi>"
        if token == "|":
            return '<mo stretchy="false" lspace="0" rspace="0">|</mo>'
        stretch = ' stretchy="false"' if token in "()" else ""
        return f"<mo{stretch}>{escape('−' if token == '-' else token)}</mo>"
    name = token[1:]
    if name in OPERATORS:
        return f"<mo>{OPERATORS[name]}</mo>"
    if name in LETTERS:
        return f"<mi>{LETTERS[name]}</mi>"
    if name in FUNCTIONS:
        return f'<mi>{name}</mi><mspace width="0.17em"/>'
    if name in SPACES:
        return f'<mspace width="{SPACES[name]}"/>'
    if name == "sum":
        return "<mo>∑</mo>"
    if name in ("big", "Big"):  # the next parenthesis is larger
        size = "1.2em" if name == "big" else "1.8em"
        return f'<mo stretchy="true" symmetric="true" minsize="{size}" maxsize="{size}">{tokens.pop(0)}</mo>'
    if name in ("frac", "tfrac"):
        style = ' displaystyle="false"' if name == "tfrac" else ""
        digits = tokens[0]
        if digits.isdigit() and len(digits) == 2:  # \tfrac12
            tokens[:1] = list(digits)
        return f"<mstyle{style}><mfrac>{_part(tokens, formula)}{_part(tokens, formula)}</mfrac></mstyle>"
    if name == "hat":
        return f'<mover accent="true">{_part(tokens, formula)}<mo stretchy="false">^</mo></mover>'
    if name == "sqrt":
        return f"<msqrt>{_part(tokens, formula)}</msqrt>"
    if name.startswith("text{"):
        return f"<mtext>{escape(name[5:-1]).replace(' ', '&nbsp;')}</mtext>"
    raise ValueError(f"the command {token} is not known to docs/formulas.py, in {formula!r}")


def shown(docstring: str) -> str:
    """A docstring with its formulas drawn, its example as code and its source as one paragraph."""
    text = re.sub(
        r"^\.\. math:: (.*(?:\n[ \t]+.*)*)",
        lambda found: mathml(found.group(1)),
        docstring,
        flags=re.MULTILINE,
    )
    text = text.replace("(*, ", r"(\*, ")  # a shape, and no emphasis
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
    return re.sub(
        r"^Source: (.*(?:\n[ \t]*\S.*)*)",
        lambda found: "**Source:** " + " ".join(found.group(1).split()),
        text,
        flags=re.MULTILINE,
    )


class Shown(Extension):
    """Applies `shown` to every docstring."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change the docstring that mkdocstrings will parse."""
        if obj.docstring is not None:
            obj.docstring.value = shown(obj.docstring.value)
