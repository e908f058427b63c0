"""The presets of ``--config NAME``, one YAML file each."""
