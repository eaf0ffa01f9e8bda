"""Files of weights of this project and of others."""
