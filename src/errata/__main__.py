"""The command line as ``python -m errata``."""

from __future__ import annotations

import sys

from errata.cli import main

sys.exit(main())
