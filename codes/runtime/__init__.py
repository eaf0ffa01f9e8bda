"""Where a run happens: devices, ranks, interruption, the experiment's folder, the command line."""
