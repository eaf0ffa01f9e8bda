"""Files that belong to images: a ground truth, a map of strengths. Matched by sub-folder and name.

Names match whatever form their accented letters have: macOS writes é as e and an accent, Windows and Linux as one.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from ..images.files import find_images
from ..utils.errors import DataError
from ..utils.names import one_form


class Companions:
    """The companions of images: one file for all of them, or the files of a folder, one for each by its name.

    `roots` are the paths the images come from. Raises DataError when `place` does not exist or holds no image.
    """

    def __init__(self, place: str, roots: Sequence[str]) -> None:
        path = Path(place)
        files = find_images(path).files
        if not files:
            raise DataError(f"{path}: no image; expected an image file, or a folder of them")
        self.place = path
        self.roots = Roots(roots)
        self.single = files[0] if path.is_file() else None
        self._files: dict[str, list[Path]] = defaultdict(list)
        if self.single is None:
            for file in files:
                self._files[stem_below(file.relative_to(path))].append(file)

    def of(self, image: Path) -> Path | None:
        """The companion of an image: in the same sub-folder, of the same name whatever its suffix; None without one.

        Where several differ in their suffix or in the form of their letters alone, the one that is called exactly as
        the image is meant. Raises DataError where none is.
        """
        if self.single is not None:
            return self.single
        of_this_stem = self._files.get(stem_below(self.roots.below(image)), [])
        if len(of_this_stem) <= 1:
            return of_this_stem[0] if of_this_stem else None
        same = [file for file in of_this_stem if file.name == image.name]
        if not same:
            names = ", ".join(file.name for file in of_this_stem)
            raise DataError(f"{image}: several files of {self.place} fit its name ({names}); keep one of them")
        return same[0]


class Roots:
    """The folders, and perhaps files, that images were found in; asking takes the same time however many there are."""

    def __init__(self, roots: Sequence[str]) -> None:
        self._number: dict[Path, int] = {}
        for number, root in enumerate(roots):
            self._number.setdefault(Path(root), number)

    def below(self, file: Path) -> Path:
        """The path of a file relative to the first of the folders that it lies in; its name alone for a file listed."""
        holding = [folder for folder in file.parents if folder in self._number]
        return file.relative_to(min(holding, key=self._number.__getitem__, default=file.parent))


def image_names(files: Sequence[Path], roots: Sequence[str]) -> tuple[str, ...]:
    """A name for each file that no other has: its path below the folder of `roots` that it was found in.

    So it does not depend on where that folder lies, nor on the form of accented letters. Of files with the same path
    below several folders the second and further ones are numbered.
    """
    places, seen = Roots(roots), Counter[str]()
    folders: dict[Path, Path] = {}
    names = []
    for file in files:
        if file.parent not in folders:
            folders[file.parent] = places.below(file).parent
        name = one_form((folders[file.parent] / file.name).as_posix())
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}//{seen[name]}")
    return tuple(names)


def below(file: Path, roots: Sequence[str]) -> Path:
    """`Roots.below` for one file."""
    return Roots(roots).below(file)


def stem_below(path: Path, suffix: str = "") -> str:
    """What files that belong together share: the sub-folder and the name without its ending, in one form."""
    return one_form(f"{path.parent.as_posix()}/{path.stem}{suffix}".removeprefix("./"))
