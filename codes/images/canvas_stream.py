"""Rows of a canvas where they are computed on: copied between host memory and a device while the device works.

Between host memory and CUDA rows pass through two pinned buffers each way, on a stream of their own: the next ones are
read while the present ones are in use, and written ones leave while the following are computed. Everywhere else rows
are taken and put as they are.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .canvas import Canvas

Span = tuple[int, int]


class _Pinned:
    """A pinned buffer of the host that grows to what is asked for, and the event after which it is free again."""

    def __init__(self) -> None:
        self._flat = torch.empty(0)
        self.event = torch.cuda.Event()
        self.first_row: int | None = None  # of rows that are on their way into it
        self.rows = self._flat

    def shaped(self, shape: torch.Size) -> Tensor:
        if self._flat.numel() < shape.numel():
            self._flat = torch.empty(shape.numel(), pin_memory=True)
        self.rows = self._flat[: shape.numel()].view(shape)
        return self.rows


def streams_between(canvas: Canvas, device: torch.device) -> bool:
    """Whether rows of a canvas pass through pinned memory on their way to and from a device."""
    return device.type == "cuda" and canvas.device.type == "cpu"


class RowReader:
    """Reads a canvas from top to bottom in `spans` [y0, y1), which may overlap; float32 (C, y1 - y0, W) on `device`."""

    def __init__(self, canvas: Canvas, device: torch.device, spans: Sequence[Span]) -> None:
        self.canvas = canvas
        self.device = device
        self._after = dict(pairwise(spans))
        self._ahead: tuple[Span, Tensor, torch.cuda.Event] | None = None
        self._streams = streams_between(canvas, device)
        if self._streams:
            self._stream = torch.cuda.Stream(device)
            self._buffers = [_Pinned(), _Pinned()]

    def rows(self, y0: int, y1: int) -> Tensor:
        """The rows of a span. They may share the canvas' memory, so do not write to them."""
        if not self._streams:
            return self.canvas.rows(y0, y1).to(self.device)
        ahead = self._ahead if self._ahead is not None and self._ahead[0] == (y0, y1) else self._begun((y0, y1))
        _, rows, copied = ahead
        current = torch.cuda.current_stream(self.device)
        current.wait_event(copied)
        rows.record_stream(current)  # or its memory would be given to the next copy while it is in use
        following = self._after.get((y0, y1))
        self._ahead = None if following is None else self._begun(following)
        return rows

    def _begun(self, span: Span) -> tuple[Span, Tensor, torch.cuda.Event]:
        """Rows on their way to the device, and the event of their arrival."""
        buffer = self._buffers[0]
        self._buffers.reverse()
        buffer.event.synchronize()  # the copy before the last has left it
        host = self.canvas.rows(*span)
        pinned = buffer.shaped(host.shape)
        pinned.copy_(host)
        buffer.event = torch.cuda.Event()
        with torch.cuda.stream(self._stream):
            rows = pinned.to(self.device, non_blocking=True)
            buffer.event.record(self._stream)
        return span, rows, buffer.event


class CanvasRowWriter:
    """Writes rows that were computed on `device` to a canvas; `close` returns when all of them are there."""

    def __init__(self, canvas: Canvas, device: torch.device) -> None:
        self.canvas = canvas
        self.device = device
        self._streams = streams_between(canvas, device)
        if self._streams:
            self._stream = torch.cuda.Stream(device)
            self._buffers = [_Pinned(), _Pinned()]

    def write(self, y0: int, rows: Tensor) -> None:
        """Replace the rows from y0 on by `rows` (C, n, W), now or soon."""
        if not self._streams:
            self.canvas.write(y0, rows)
            return
        buffer = self._buffers[0]
        self._buffers.reverse()
        self._arrived(buffer)
        buffer.first_row = y0
        pinned = buffer.shaped(rows.shape)
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            pinned.copy_(rows, non_blocking=True)
            buffer.event.record(self._stream)
        rows.record_stream(self._stream)

    def close(self) -> None:
        """Everything written is in the canvas."""
        if self._streams:
            for buffer in self._buffers:  # the older one first
                self._arrived(buffer)

    def _arrived(self, buffer: _Pinned) -> None:
        if buffer.first_row is not None:
            buffer.event.synchronize()
            self.canvas.write(buffer.first_row, buffer.rows)
            buffer.first_row = None
