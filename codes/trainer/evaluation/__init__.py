"""What codes/evaluate.py does: a recipe's evaluators, or two folders."""
