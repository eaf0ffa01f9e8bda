"""The whole recipe as typed options, and the checks that need more than one of its sections."""
