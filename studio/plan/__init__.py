"""What a model and a machine are, told without loading either."""
