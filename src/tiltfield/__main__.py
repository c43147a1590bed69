"""``python -m tiltfield`` and ``tiltfield``: the command line."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is loaded ends it without a traceback."""
    try:
        from tiltfield.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
