"""The denoising networks; each registers itself."""

from ....config.plugins import import_submodules

import_submodules(__name__, __path__[0])
