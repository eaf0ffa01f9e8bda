"""Large images in equal blocks, so that a network that measures them needs memory for one block alone."""

from collections.abc import Iterator

BLOCK_SIDE = 1024  # pixels


def image_blocks(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the blocks that cover an image, row by row; at most BLOCK_SIDE pixels a side."""
    for rows in _parts(height):
        for columns in _parts(width):
            yield rows, columns


def _parts(side: int) -> Iterator[slice]:
    count = -(-side // BLOCK_SIDE)
    for part in range(count):
        yield slice(side * part // count, side * (part + 1) // count)
