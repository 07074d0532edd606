"""Lets `python -m busfast VERB` run the command line."""

from busfast.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
