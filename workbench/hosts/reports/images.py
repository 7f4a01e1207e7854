"""The images that runs were measured on, from which reports derive whether runs can be compared."""

from workbench.storage.evidence import Evidence
from workbench.storage.run import Run


def images_of(run: Run) -> str | None:
    """Return what identifies the held-out images of a run, or of a generator's tokenizer."""
    source = run.tokenizer or run
    if source.evidence_steps:
        folder = source.evidence_folder(source.evidence_steps[-1])
        fingerprint_of_images = Evidence.open(folder, only=()).provenance.get("fingerprint")
        if fingerprint_of_images:
            return str(fingerprint_of_images)
    return None if source.config.data is None else source.config.data.fingerprint
