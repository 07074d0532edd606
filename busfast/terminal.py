"""Lines on a terminal break between words; a terminal itself breaks them anywhere."""

import re
import shutil
import textwrap
from typing import Any, TextIO

WORD = """(?:'[^']*'|"[^"]*"|[^\\s'"])+"""
START = r"(?:python -m \w+|pip install) "
# A command with its arguments: all behind a colon or at the start of a line, if no sentence goes on there; else flags,
# quoted words, and words with a sign that those of sentences have at most last.
COMMAND = re.compile(rf"""(?:^\s*|(?<=: )){START}(?:(?!\. |[,;()] ).)+$|"""
                     rf"""{START}{WORD}(?: (?=[-'"]|\S*[=/.]\S){WORD})*""")


def fit(text: str) -> str:
    """Returns text whose lines fit the terminal; what a line continues with is indented by two more.

    Commands, which are pasted, stay whole, and lines with colors are left as they are.
    """
    width = shutil.get_terminal_size().columns
    return "\n".join(line if len(line) <= width or "\033" in line else _wrap(line, width) for line in text.split("\n"))


def _wrap(line: str, width: int) -> str:
    kept = COMMAND.sub(lambda command: command[0].replace(" ", "\0"), line)
    return textwrap.fill(kept, width, subsequent_indent=" " * (len(line) - len(line.lstrip()) + 2),
                         break_long_words=False, break_on_hyphens=False).replace("\0", " ")


class Fitted:
    """A stream to a terminal on which all that is printed fits."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(fit(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)
