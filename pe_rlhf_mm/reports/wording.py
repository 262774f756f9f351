"""Numbers as the page writes them; a dash where a run has none."""

from __future__ import annotations

DASH = "–"
SPACE = "\N{NO-BREAK SPACE}"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def percent(fraction: float | None) -> str:
    """A fraction as percent: 71.2 %."""
    return DASH if fraction is None else f"{100 * fraction:.1f}{SPACE}%"


def points(fraction: float | None) -> str:
    """A difference of two fractions in percentage points, with its sign: +12.2."""
    return DASH if fraction is None else _minus(f"{100 * fraction:+.1f}")


def count(number: float | None) -> str:
    """A whole number: 1,024."""
    return DASH if number is None else f"{number:,.0f}"


def decimal(number: float | None) -> str:
    """A number with as many digits as an eye can use: 0.512, 14.2, 1,024, 3.1×10⁻⁶."""
    if number is None:
        return DASH
    size = abs(number)
    if size and size < 1e-3:
        digits, _, exponent = f"{number:.1e}".partition("e")
        return f"{_minus(digits)}×{power_of_ten(int(exponent))}"
    return _minus(f"{number:z,.{3 if size < 10 else 1 if size < 1000 else 0}f}")


def reward(number: float | None) -> str:
    """A mean reward, in deviations: 0.512."""
    return DASH if number is None else _minus(f"{number:z.3f}")


def gained(number: float | None) -> str:
    """A difference of two of them, with its sign: +0.512."""
    return DASH if number is None else _minus(f"{number:+z.3f}")


def power_of_ten(exponent: int) -> str:
    """10⁻⁶."""
    return "10" + str(exponent).translate(_SUPERSCRIPT)


def duration(seconds: float | None) -> str:
    """A time span: 8.4 s, 3 min 5 s, 2 h 14 min."""
    if seconds is None:
        return DASH
    if seconds < 59.5:
        return f"{seconds:.1f}{SPACE}s" if seconds < 10 else f"{seconds:.0f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {rest}{SPACE}s"
    return f"{minutes // 60:,}{SPACE}h {minutes % 60}{SPACE}min"


def _minus(written: str) -> str:
    return written.replace("-", "\N{MINUS SIGN}")
