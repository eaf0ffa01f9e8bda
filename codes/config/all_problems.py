"""Finding all problems of a recipe at once, though some checks need a recipe that is well-formed.

Where a recipe does not parse, its problems are repaired on a copy, a misspelt key by the one probably meant and
anything else by leaving it out, and the copy is checked further. What that brings to light is reported with the rest.
A recipe without a mistake is parsed once; one with some, once more for each level at which there are any, because what
holds between keys is looked at only where each of them is right.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ..utils.errors import ConfigError
from .options import MOST_ISSUES
from .yaml_source import Issue, KeyPath, Source

T = TypeVar("T")


def check_all(
    source: Source, parse: Callable[[Source], T], check: Callable[[T], object], independent: Collection[str] = ()
) -> T:
    """Parse and check; what `parse` returned. Raises one ConfigError with every problem that either finds.

    independent: top-level sections that may be left out without making others seem wrong.
    """
    issues: list[Issue] = []
    current = source
    while True:  # each time with fewer keys, or with one more that is known
        try:
            result = parse(current)
        except ConfigError as error:
            if not error.issues:
                raise
            new = [issue for issue in error.issues if not _follows(issue, issues)]
            issues += new
            # Where a mistake is followed only by complaints about what was left out, the whole section goes.
            tops = {issue.path[0] for issue in error.issues if issue.path} & set(independent)
            sections = [Issue((top,), "") for top in tops]
            repaired = _repaired(current.data, new or sections)
            if repaired == current.data or len(issues) >= MOST_ISSUES:
                break
            current = replace(current, data=repaired)
            continue
        try:
            check(result)
        except ConfigError as error:
            if not error.issues and not issues:
                raise
            issues += [issue for issue in error.issues if not _follows(issue, issues)]
        if not issues:
            return result
        break
    raise source.error(issues)


def _follows(issue: Issue, earlier: Sequence[Issue]) -> bool:
    """Whether an issue lies in a section from which something was left out, so that it may come of that alone."""
    sections = {known.path[:-1] or known.path for known in earlier if known.meant is None}
    return any(issue.path[: len(section)] == section for section in sections)


def _repaired(data: Any, issues: Sequence[Issue]) -> Any:
    for issue in issues:
        if issue.path:
            data = _without(data, issue.path, issue.meant)
    return data


def _without(data: Any, path: KeyPath, meant: str | None) -> Any:
    """A copy of `data` in which the key at `path` is left out, or named `meant` where that name is free."""
    key, rest = path[0], path[1:]
    if isinstance(data, Mapping) and key in data:
        if rest:
            return {**data, key: _without(data[key], rest, meant)}
        renamed = meant if meant and meant not in data else None
        kept = {name: value for name, value in data.items() if name != key}
        return kept if renamed is None else {**kept, renamed: data[key]}
    if isinstance(data, list) and isinstance(key, int) and key < len(data):
        if rest:
            return [*data[:key], _without(data[key], rest, meant), *data[key + 1 :]]
        return [*data[:key], *data[key + 1 :]]
    return data
