"""``python -m squeezebert_kernels`` is the command ``squeezebert-kernels``."""

import sys

from .cli import main

sys.exit(main())
