"""`python -m hybridsearch` is the same program as `hybridsearch`."""

from hybridsearch.cli.main import main

main()
