"""Files that belong to images: a ground truth, a map of strengths. Matched by sub-folder and name."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..images.files import find_images
from ..utils.errors import DataError


class Companions:
    """The companions of images: one file for all of them, or the files of a folder, one for each by its name.

    `roots` are the paths the images come from. Raises DataError when `place` does not exist or holds no image.
    """

    def __init__(self, place: str, roots: Sequence[str]) -> None:
        path = Path(place).expanduser()
        files = find_images(path).files
        if not files:
            raise DataError(f"{path}: no image; expected an image file, or a folder of them")
        self.place = path
        self.roots = tuple(roots)
        self.single = files[0] if path.is_file() else None
        self._files: dict[Path, list[Path]] = defaultdict(list)
        if self.single is None:
            for file in files:
                self._files[file.relative_to(path).with_suffix("")].append(file)

    def of(self, image: Path) -> Path | None:
        """The companion of an image: in the same sub-folder, of the same name whatever its suffix; None without one.

        Where several differ in their suffix alone, the one with that of the image is meant. Raises DataError where
        none has it.
        """
        if self.single is not None:
            return self.single
        found = self._files.get(below(image, self.roots).with_suffix(""), [])
        if len(found) <= 1:
            return found[0] if found else None
        same = [file for file in found if file.name == image.name]
        if not same:
            names = ", ".join(file.name for file in found)
            raise DataError(f"{image}: several files of {self.place} fit its name ({names}); keep one of them")
        return same[0]


def below(file: Path, roots: Sequence[str]) -> Path:
    """The path of a file relative to the folder of `roots` that it was found in; its name alone for a file listed."""
    folders = (Path(root).expanduser() for root in roots)
    root = next((root for root in folders if file.is_relative_to(root) and file != root), file.parent)
    return file.relative_to(root)
