"""Text for people: numbers with the noun they count, and text shown as it stands."""

from collections.abc import Iterable, Sequence


def counted(number: int, noun: str) -> str:
    """Returns "1 pair", "2 pairs", "2 pairs of images": the first word of the noun takes the s."""
    first, space, rest = noun.partition(" of ")
    return f"{number} {first}{'' if number == 1 else 's'}{space}{rest}"


def plain_text(text: str) -> str:
    """Returns a text that is shown as it stands: a file's cell or name may hold commands to the terminal."""
    return "".join(sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode("ascii")
                   for sign in text)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a Markdown table; a | within a cell does not end it."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)
