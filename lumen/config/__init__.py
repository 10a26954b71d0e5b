"""One validated, typed config from YAML files and key=value overrides."""
