"""Names in files of older versions, mapped to the names in use today."""

PROVENANCE = {"judge": "feature_extractor"}  # keys of an evidence folder's provenance.json
