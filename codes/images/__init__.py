"""Reading and writing image files, colour profiles, EXIF, and canvases of any size."""
