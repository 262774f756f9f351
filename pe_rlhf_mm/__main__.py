"""`python -m pe_rlhf_mm` is the command `pe-rlhf`."""

from pe_rlhf_mm.cli.main import main

main()
