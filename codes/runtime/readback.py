"""Numbers on their way from the device to the host."""

import torch
from torch import Tensor


class Readback:
    """Numbers (N,) that a device will have computed; reading them waits for these alone, not for what comes after.

    On CUDA they are copied into pinned memory as soon as they are there, so that the device can be given more work
    before anybody reads them. Elsewhere reading is what it always is.
    """

    def __init__(self, values: Tensor) -> None:
        self.late = values.device.type == "cuda"
        self._values = values
        if self.late:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[float]:
        """The numbers; the first reading waits."""
        if self.late:
            self._arrived.synchronize()
        numbers: list[float] = self._values.tolist()
        return numbers
