"""The class form: a model with its parts, its steps and its hooks, as run specs."""
