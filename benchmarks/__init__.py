"""Programs that print the figures that the README quotes; each is run as ``python -m benchmarks.NAME --out FILE.json``.

They measure in the environment that ``make demo`` serves in; it is set here, since libraries read it when imported.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
