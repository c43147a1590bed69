"""``python -m tiltfield``: the command line."""

from tiltfield.cli import main

main()
