"""Names in files of older versions, mapped to the names in use today."""

PROVENANCE = {"judge": "feature_extractor"}  # keys of an evidence folder's provenance.json
# Settings of models, wherever they are stored: `settings` and `changes` of a run, `settings` of a provenance.
MODEL_SETTINGS = {
    "tokens": "num_tokens",
    "codes": "codebook_size",
    "books": "num_codebooks",
    "skip": "linear_init",
}
