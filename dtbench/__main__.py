"""`python -m dtbench`."""

from dtbench.cli.app import main

main()
