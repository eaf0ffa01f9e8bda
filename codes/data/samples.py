"""The sample photographs: free pictures inside the installed scikit-image package, so that a first run needs no data.

All are public domain or CC0 (see scikit-image's `skimage.data` documentation for each source); they are part of its
wheel and are read where they lie, without its download helper.
"""

from pathlib import Path

from ..utils.errors import DataError

TRAINING = (
    "coffee.png",
    "chelsea.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
    "retina.jpg",
    # Its right-hand twin shows the same scene and is left out.
    "motorcycle_left.png",
    "ihc.png",
    # Gray ones, for their edges and textures.
    "camera.png",
    "brick.png",
    "grass.png",
    "gravel.png",
)
# A portrait with fabric, badges and stripes; nothing like it is among the training photographs.
HELD_OUT = "astronaut.png"


def sample_photographs() -> list[Path]:
    """The training photographs, each at least 300 pixels on its short side. Raises DataError when one is missing."""
    return [_sample(name) for name in TRAINING]


def held_out_photograph() -> Path:
    """The photograph (512 x 512) that is never trained on. Raises DataError when it is missing."""
    return _sample(HELD_OUT)


def _sample(name: str) -> Path:
    try:
        import skimage  # only for where its files lie; a user with own photographs does without
    except ImportError:
        raise DataError(
            "the sample photographs come with scikit-image, which is not installed; run "
            "`pip install scikit-image` or set `paths` to a folder of your own photographs"
        ) from None
    path = Path(skimage.__file__).parent / "data" / name
    if not path.is_file():
        raise DataError(
            f"{path}: this sample photograph is missing from scikit-image; run "
            "`pip install --force-reinstall scikit-image` or set `paths` to a folder of your own photographs"
        )
    return path
