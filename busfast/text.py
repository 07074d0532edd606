"""Text of and for people: names, counts with their noun, text that is safe to print, Markdown tables."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

SIGNS = " .()&+'-:%#=?!*@°±≤≥"  # that the name of a class may have
JOINERS = "\u200c\u200d"  # within words of some scripts
CAUTION = "Research only, not a medical device."
NEW_IMAGES = "NEW_IMAGES"  # of the user, in a command: those of training are not to be predicted
MANY = 20  # classes; of more, people are not shown each


def counted(number: int, noun: str) -> str:
    """Returns "1 pair", "2 pairs", "2 pairs of images": the first word of the noun takes the s."""
    first, space, rest = noun.partition(" of ")
    return f"{number} {first}{'' if number == 1 else 's'}{space}{rest}"


def signed(value: float) -> str:
    """Returns a difference as "+0.012" or "-0.012", and never as "-0.000"."""
    return f"{round(value, 3) + 0:+.3f}"  # -0.0 + 0 is 0.0


def times(number: int) -> str:
    """Returns "once", "twice", "3 times"."""
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def file_size(count: int) -> str:
    """Returns a number of bytes as "3 kB" or "16.2 MB"."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{max(1, round(count / 1e3))} kB"


def listed(names: Sequence[str]) -> str:
    """Returns "a, b, c"; of more than `MANY` names the first three, the last one and the number of all."""
    if len(names) <= MANY:
        return ", ".join(names)
    return f"{', '.join(names[:3])}, ..., {names[-1]} ({len(names):,})"


def cut_middle(name: str, length: int) -> str:
    """Returns a name of at most `length` characters, with ~ for its middle: the end says which fold or seed."""
    return name if len(name) <= length else f"{name[:length // 2 - 1]}~{name[-((length + 1) // 2):]}"


def composed(name: str) -> str:
    """Returns a name in Unicode's composed form, with single spaces: the same text for what looks the same."""
    return unicodedata.normalize("NFC", " ".join(name.split()))


def is_class_name(label: str) -> bool:
    """Returns whether a label begins with a letter or digit, of any script, and has no signs but `SIGNS`."""
    text = "".join(char for char in label if unicodedata.category(char)[0] != "M" and char not in JOINERS)
    return re.fullmatch(rf"\w[\w{re.escape(SIGNS)}]*", text) is not None


def plain_text(text: str) -> str:
    """Escapes control characters: a cell or file name may hold commands to the terminal."""
    return "".join(char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode("ascii")
                   for char in text)


def markdown_table(header: Sequence[str], rows: Iterable[Iterable[object]], numeric: Sequence[str] = ()) -> str:
    """Returns a Markdown table, the `numeric` columns aligned to the right; a | within a cell does not end it."""
    lines = [header, ["--:" if name in numeric else "---" for name in header], *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)
