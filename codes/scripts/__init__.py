"""Small programs beside the two doors."""
