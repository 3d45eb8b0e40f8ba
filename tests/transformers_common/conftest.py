"""Marks that transformers' own tests carry, and the Auto mappings through which they recognise a model's classes."""

from collections.abc import Iterator
from unittest import mock

import pytest
from transformers.models.auto import modeling_auto

MARKS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "generate",
    "torch_compile_test",
    "torch_export_test",
)


def pytest_configure(config: pytest.Config) -> None:
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: of transformers' shared tests")


@pytest.fixture
def known_to_transformers() -> Iterator[None]:
    """transformers' own models are listed by class name; the shared tests decide by these lists what a class is."""
    names = {
        "MODEL_MAPPING_NAMES": "CLCRModel",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": "CLCRForSequenceClassification",
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": "CLCRForTokenClassification",
    }
    patches = [mock.patch.dict(getattr(modeling_auto, mapping), clcr=name) for mapping, name in names.items()]
    for patch in patches:
        patch.start()
    yield
    for patch in patches:
        patch.stop()
