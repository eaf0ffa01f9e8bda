"""One image at many settings: cells, grid, charts and the page with sliders."""
