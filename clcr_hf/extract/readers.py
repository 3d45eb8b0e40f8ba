"""The models of an extraction: all that reads a clip, loaded once."""

from dataclasses import dataclass
from typing import Any

import torch

from ..faces import allow_detector, find_detector
from .backbones import AudioBackbone, FrozenBackbone, TextBackbone, VisionBackbone
from .settings import ExtractSettings
from .speech import OpenSmile, SpeechRecogniser


@dataclass
class Readers:
    """What reads each part of a clip; None for what is not wanted."""

    text: TextBackbone | None = None
    vision: VisionBackbone | None = None
    audio: AudioBackbone | None = None
    smile: OpenSmile | None = None
    recogniser: SpeechRecogniser | None = None

    @classmethod
    def load(cls, settings: ExtractSettings, device: torch.device) -> "Readers":
        """The models that the settings name, on `device`."""
        if settings.face_crop is not None:
            allow_detector(settings.face_crop)
            find_detector(settings.face_crop)  # what is not installed is said at once
        where: dict[str, Any] = {"device": device, "dtype": getattr(torch, settings.dtype)}
        options = {"taps": settings.taps, "num_levels": settings.num_levels, **where}
        readers = cls()
        if settings.text:
            readers.text = TextBackbone(settings.text, **options)
        if settings.vision:
            readers.vision = VisionBackbone(settings.vision, token_grid=settings.token_grid, **options)
        if settings.audio:
            readers.audio = AudioBackbone(settings.audio, **options)
        if settings.opensmile:
            readers.smile = OpenSmile(settings.opensmile_level, settings.opensmile_window)
        if settings.transcribe:
            readers.recogniser = SpeechRecogniser(settings.transcribe, language=settings.language, **where)
        return readers

    @property
    def smile_name(self) -> str:
        """Whose features openSMILE's are."""
        return "audio" if self.audio is None else "egemaps"

    def makers(self) -> dict[str, FrozenBackbone | OpenSmile]:
        """What makes features, by the modality that they are of."""
        found: dict[str, Any] = {"text": self.text, "vision": self.vision, "audio": self.audio}
        if self.smile is not None:
            found[self.smile_name] = self.smile
        return {name: maker for name, maker in found.items() if maker is not None}

    def shapes(self) -> dict[str, tuple[int | None, int]]:
        """`(L, D)` of the features of each modality; L is None where they have no levels."""
        return {name: (maker.num_levels, maker.width) for name, maker in self.makers().items()}
