"""The program's first step: `hybridsearch` and `python -m hybridsearch` are the same."""

import sys


def main() -> None:
    """Run the command line, and end with its exit code; Ctrl-C while its parts are still loading is no traceback."""
    try:
        from hybridsearch.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
