"""The run-time checker of shapes and types that conftest installs; in a module of its own because it goes by name."""

import beartype

checker = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # an int is a float
