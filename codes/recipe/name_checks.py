"""Names of a recipe that become names of files: no two of them are one on any file system."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config.yaml_source import Issue, KeyPath
from ..utils.names import same_file

OF_RESULTS = (
    "index.html",
    "index_files",
    "metrics.json",
    "test.log",
    "evaluation.json",
)  # what a test run writes itself


def name_issues(
    datasets: Mapping[str, Any], networks: Sequence[str], evaluators: Sequence[str], visuals: Sequence[str]
) -> Iterator[Issue]:
    """Issues of names that would share a file or a folder. `datasets`: the sections by phase."""
    folders: dict[KeyPath, str] = {("datasets", phase): str(section.name) for phase, section in datasets.items()}
    yield from _alike(folders, "the results of both would lie in one folder; give each its own `name`")
    for path, name in folders.items():
        if same_file(Path(name)) in map(same_file, map(Path, OF_RESULTS)):
            yield Issue((*path, "name"), f"{name} is a file of the results themselves; choose another name")
    weights: dict[KeyPath, str] = {("networks", name): name for name in networks}
    averages: dict[KeyPath, str] = {("networks", name): f"{name}_ema" for name in networks}
    yield from _alike(weights, "their checkpoints would be one file; rename one")
    for path, name in weights.items():
        same = [owner for owner, average in averages.items() if same_file(Path(average)) == same_file(Path(name))]
        if same:
            yield Issue(path, f"is also the file of the averaged weights of {same[0][-1]}; rename one")
    pictures: dict[KeyPath, str] = {("eval", "evaluators", name): name for name in evaluators}
    yield from _alike(pictures, "their pictures would be one file; rename one")
    grids: dict[KeyPath, str] = {("logger", "visuals", index): key for index, key in enumerate(visuals)}
    yield from _alike(grids, "their grids would lie in one folder; rename one, or take it off the list")


def _alike(names: Mapping[KeyPath, str], consequence: str) -> Iterator[Issue]:
    seen: dict[tuple[str, ...], KeyPath] = {}
    for path, name in names.items():
        first = seen.setdefault(same_file(Path(name)), path)
        if first != path:
            other = ".".join(map(str, first))
            yield Issue(path, f"{name!r} and {names[first]!r} ({other}) are one name on some disks: {consequence}")
