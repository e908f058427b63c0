"""One attempt of the technique that ``TEST_TECHNIQUE`` names, stopped as ``TEST_STOP`` says."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from techniques import TECHNIQUES, attempt

if __name__ == "__main__":
    attempt(TECHNIQUES[os.environ["TEST_TECHNIQUE"]], Path("run"), os.environ["TEST_STOP"])
