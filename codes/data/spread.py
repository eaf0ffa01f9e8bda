"""Which tile of which photograph a position of the endless order is, where a photograph gives several tiles."""

from dataclasses import dataclass

WAITING_BYTES = 256 * 2**20  # of the tiles that wait for their position, in a process that makes all of them
MOST_TILES = 16
TILES_OF_WORK = 16  # decoding so many tiles' worth of pixels costs about as much as the rest of an item
MOST_BATCHES = 8  # as many workers find all tiles of a photograph in their own batches


@dataclass(frozen=True)
class TileSpread:
    """Photographs are gone through on parallel tracks: position n is on track n % tracks, which takes its photograph's
    tiles one after the other and then goes on to the next photograph.

    So any `tracks` positions in a row show as many photographs, though each is decoded but once for `tiles` tiles. The
    tracks begin at different tiles, so that few photographs change at the same time. With one tile each, this is the
    order of the photographs.
    """

    tiles: int = 1
    tracks: int = 1

    def ordinal(self, position: int) -> int:
        """Number of a tile when photographs are cut one after the other: tile i of photograph q is q * tiles + i."""
        turn, track = divmod(position, self.tracks)
        rounds, tile = divmod(turn + track % self.tiles, self.tiles)
        return (rounds * self.tracks + track) * self.tiles + tile

    def position(self, ordinal: int) -> int:
        """The position of a tile; below 0 for tiles that come before the first."""
        photograph, tile = divmod(ordinal, self.tiles)
        rounds, track = divmod(photograph, self.tracks)
        return (rounds * self.tiles + tile - track % self.tiles) * self.tracks + track


def spread_for(tiles: int | None, photographs: int, pixels: float, side: int, batch_size: int) -> TileSpread:
    """The order for photographs of so many pixels on average and tiles cut as squares of `side`.

    tiles: a number as asked for, or None for as many as make decoding cheap beside the rest of an item. The tracks are
    those of whole batches, as many as there are photographs for and as the tiles that wait have room.
    """
    square = side * side
    many = tiles or min(max(int(pixels / (TILES_OF_WORK * square)), 1), MOST_TILES)
    if many == 1:
        return TileSpread()
    room = WAITING_BYTES // (3 * square * batch_size * many // 2 or 1)
    return TileSpread(many, batch_size * max(min(room, photographs // batch_size, MOST_BATCHES), 1))
