"""Run-time checker of shapes and types that conftest installs, which needs an importable name."""

import beartype

checker = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # an int is a float
