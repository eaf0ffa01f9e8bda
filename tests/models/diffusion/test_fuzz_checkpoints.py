"""Mutated checkpoints: a restorer, or one of our own errors in one line with the file's name, within seconds."""

import copy
import json
import random
import time

import pytest
import torch
from record_helpers import DATA, NETWORK, PROCESS
from safetensors.torch import save_file

from codes.inference.restorer import Restorer
from codes.models.diffusion.checkpoints.metadata import CheckpointMetadata, build, load_into
from codes.utils.errors import ConfigError

VALUES = [
    None, True, 0, -1, 1, 3, 64, 10**6, 10**9, 2**63, 10**40, 0.5, -0.5, 1e308, float("nan"), float("inf"), "",
    "x", "cosine", "\0", "\x1b[2J", "é" * 300, "x" * 100_000, [], [1], [-1], [None], ["x"], [[1]], [1] * 3000, {},
    {"x": 1},
]  # fmt: skip
TENSORS = [
    torch.zeros(0), torch.zeros(3), torch.zeros(1).expand(10**6, 10**6), torch.zeros(2, 2).to_sparse(),
    torch.zeros(3, dtype=torch.complex64), torch.full((3,), float("nan")), torch.zeros(3, dtype=torch.int64),
]  # fmt: skip
SECONDS = 5.0  # of this process, whatever else the machine does
FOUND = (1397, 1739, 3164, 3613, 4628, 5352, 5896, 7692)  # of the ten thousand, before they were refused by name


@pytest.fixture(scope="module")
def network():
    return build("unet_diffusion", NETWORK)


def places(value, path=()):
    if path:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from places(inner, (*path, key))


def changed_json(text, rng):
    """A JSON text in which one value is another, or one character."""
    if rng.random() < 0.3:
        place = rng.randrange(len(text) + 1)
        return text[:place] + rng.choice(["", "[" * 3000, "{", '"', "1" * 5000, "NaN", "\\u0000"]) + text[place + 1 :]
    data = json.loads(text)
    if rng.random() < 0.1:
        return json.dumps(rng.choice(VALUES))
    path = rng.choice([*places(data)])
    place = data
    for key in path[:-1]:
        place = place[key]
    if rng.random() < 0.2:
        del place[path[-1]]
    else:
        place[path[-1]] = rng.choice(VALUES)
    return json.dumps(data)


def changed_record(strings, rng):
    strings = dict(strings)
    key = rng.choice([*strings])
    if rng.random() < 0.15:
        del strings[key]
    elif key in ("network", "process", "data"):
        strings[key] = changed_json(strings[key], rng)
    else:
        strings[key] = str(rng.choice(VALUES))
    return strings


def changed_bytes(data, rng):
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(min(len(data), rng.choice([12, 400, len(data)])))
        data[place : place + rng.choice([0, 1, 8])] = rng.randbytes(rng.choice([0, 1, 8]))
    return bytes(data[: rng.choice([len(data), len(data), rng.randrange(len(data))])])


def changed_pickle(weights, rng):
    """A state dict with an odd tensor, name, value or wrapping."""
    content = dict(weights)
    name = rng.choice([*content])
    kind = rng.randrange(5)
    if kind == 0:
        content[name] = rng.choice(TENSORS)
    elif kind == 1:
        content[rng.choice(["", "x" * 5000, 5, ("a", 1), None, "\n\x1b"])] = content.pop(name)
    elif kind == 2:
        content[name] = copy.deepcopy(rng.choice(VALUES))
    elif kind == 3:
        content = {rng.choice(["model", "ema", "params", "x"]): content}
    else:
        content["model"] = content
    return content


def outcome(path, seed, network, strings):
    rng = random.Random(seed)
    kind = rng.choice(["record", "record", "bytes", "pickle"])
    file = path / ("c.pth" if kind == "pickle" else "c.safetensors")
    if kind == "pickle":
        torch.save(changed_pickle(network.state_dict(), rng), file)
    else:
        save_file(network.state_dict(), file, changed_record(strings, rng) if kind == "record" else strings)
        if kind == "bytes":
            file.write_bytes(changed_bytes(file.read_bytes(), rng))
    start = time.process_time()
    wrong = None
    try:
        if kind == "pickle":
            load_into(build("unet_diffusion", NETWORK), file)
        else:
            Restorer.from_checkpoint(file, device="cpu")
    except ConfigError as error:
        text = str(error)
        if str(file) not in text or "\n" in text or len(text) > 2000:
            wrong = f"{len(text)} characters: {text[:300]!r}"
    except Exception as error:
        wrong = f"{type(error).__name__}: {str(error)[:300]}"
    seconds = time.process_time() - start
    return wrong or (f"took {seconds:.1f} s" if seconds > SECONDS else None)


def check(seeds, path, network):
    strings = CheckpointMetadata.of(network, "ema", 5, PROCESS, DATA).to_strings()
    failures = {seed: wrong for seed in seeds if (wrong := outcome(path, seed, network, strings))}
    assert not failures, f"{len(failures)} of {len(seeds)}: " + "\n".join(
        f"{s}: {text}" for s, text in [*failures.items()][:8]
    )


def test_mutated_checkpoints_load_or_are_refused_by_name(tmp_path, network):
    check([*range(200), *FOUND], tmp_path, network)


@pytest.mark.slow
def test_ten_thousand_mutated_checkpoints_load_or_are_refused_by_name(tmp_path, network):
    check(range(1000, 11000), tmp_path, network)
