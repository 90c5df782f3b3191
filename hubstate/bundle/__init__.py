"""Bundles: what a lock file pins, in one tar file, for machines that no network reaches."""

from hubstate.bundle.exporting import Exported, export_bundle
from hubstate.bundle.importing import Imported, import_bundle

__all__ = ["Exported", "Imported", "export_bundle", "import_bundle"]
