"""`python -m evlib`: the command line."""

import sys

from evlib.cli import main

sys.exit(main())
