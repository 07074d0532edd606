"""Numbers with the noun they count."""


def counted(number: int, noun: str) -> str:
    """Returns "1 pair", "2 pairs", "2 pairs of images": the first word of the noun takes the s."""
    first, space, rest = noun.partition(" of ")
    return f"{number} {first}{'' if number == 1 else 's'}{space}{rest}"
