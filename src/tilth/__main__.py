"""`python -m tilth` is `tilth`; `torchrun -m tilth train ...` needs it."""

from tilth.cli import main

main()
