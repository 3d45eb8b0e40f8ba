"""Stand-ins for four modules that the shared tests import and the source distribution leaves out. None of them tests
anything that applies to CLCR: it generates no text, is no part of transformers' export matrix, and its processor is
tested on generated media rather than on files from the hub."""


class ExportTesterMixin:
    """Stands in for `tests/exporters/test_export.py`."""


class GenerationTesterMixin:
    """Stands in for `tests/generation/test_utils.py`."""


def url_to_local_path(url: str) -> str:
    """Stands in for `utils/fetch_hub_objects_for_ci.py`, which swaps addresses for files fetched beforehand."""
    return url


STUBS = {
    "transformers_shared_tests.exporters.test_export": {"ExportTesterMixin": ExportTesterMixin},
    "transformers_shared_tests.generation.test_utils": {"GenerationTesterMixin": GenerationTesterMixin},
    # Values for arguments that all configurations share; they are only read for configurations without parts.
    "transformers_shared_tests.utils.test_configuration_utils": {"config_common_kwargs": {}},
    "fetch_hub_objects_for_ci": {"url_to_local_path": url_to_local_path},
}
