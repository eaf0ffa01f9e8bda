"""Using a trained network: restoring, generating, sweeps, evaluation, the library entry."""
