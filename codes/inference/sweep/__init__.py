"""One image restored under many settings."""
