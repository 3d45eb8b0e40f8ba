"""The page of `clcr demo`, and its server."""

import math
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

from ..data.errors import optional_package
from ..media import load_audio
from ..pipeline_clcr import TASK, CLCRPipeline
from .html import draw_reading
from .reading import check_duration, read_clip

_INTRODUCTION = Path(__file__).with_name("introduction.md").read_text("utf-8")
# Screen readers tell the answer when it comes.
_SPEAK = "() => { document.getElementById('answer').setAttribute('aria-live', 'polite') }"
_WAITING = "<p>The answer appears here.</p>"
_STYLE = Path(__file__).parent / "style.css"
_SWEEP = 600  # seconds between two looks for old uploads
_OLD = 3600  # seconds after which an upload is removed though its page is still open
# Visitors who may wait for the model at once. gradio keeps a copy of the page's settings, 24 kB, for each of the last
# 10,000 visitors; this page has no state to keep, so that the last few will do.
_QUEUE = 32
_LONGEST_TEXT = 2000  # characters


def _inputs(gr: Any, max_seconds: float) -> tuple[Any, Any, Any]:
    """The page's inputs: a clip, audio of its own, a transcript."""
    clip = gr.Video(label=f"Clip, at most {max_seconds:g} s", sources=["upload", "webcam"], buttons=[], elem_id="clip")
    with gr.Accordion("Sound alone, or another sound", open=False, elem_id="audio-part"):
        audio = gr.Audio(
            label="Sound",
            sources=["upload", "microphone"],
            type="filepath",
            buttons=[],  # gradio's share button would send it to the Hub
            elem_id="audio",
        )
    text = gr.Textbox(label="Transcript", lines=2, max_length=_LONGEST_TEXT, elem_id="transcript")
    return clip, audio, text


def build_page(
    pipe: CLCRPipeline,
    *,
    max_seconds: float = 60.0,
    recognise: Callable[[str], str] | None = None,
    name: str = "",
) -> Any:
    """The page as `gradio.Blocks`, not yet served.

    Args:
        pipe: a pipeline "multimodal-sentiment".
        max_seconds: length of the longest clip that is read.
        recognise: path of a clip or audio file to its transcript; without it there is no such button.
        name: of the model, shown on the page.

    Raises:
        ImportError: gradio is not installed.
    """
    gr = _import_gradio()
    uploads = _Uploads()

    def keep(clip: str | None, audio: str | None, request: gr.Request) -> None:  # type: ignore[name-defined]
        uploads.keep(request.session_hash, clip, audio)

    def leave(request: gr.Request) -> None:  # type: ignore[name-defined]
        uploads.keep(request.session_hash)

    def read(clip: str | None, audio: str | None, text: str | None) -> tuple[str, str]:
        with _told(gr, clip, audio):
            return draw_reading(read_clip(pipe, clip, audio, text, max_seconds=max_seconds))

    def transcribe(clip: str | None, audio: str | None) -> str:
        with _told(gr, clip, audio):
            return _transcript(recognise, audio or clip, max_seconds)

    with gr.Blocks(title="CLCR demo", analytics_enabled=False, delete_cache=(_SWEEP, _OLD)) as page:
        gr.Markdown(_INTRODUCTION)
        with gr.Row():
            with gr.Column(min_width=280):
                clip, audio, text = _inputs(gr, max_seconds)
                if recognise is not None:
                    hear = gr.Button("Recognise the transcript", elem_id="recognise")
                    hear.click(transcribe, [clip, audio], text, api_visibility="private", concurrency_id="model")
                button = gr.Button("Read the clip", variant="primary", elem_id="read")
                gr.Markdown(f"Model: `{name}`" if name else "")
            with gr.Column(min_width=280, scale=2):
                answer = gr.HTML(_WAITING, elem_id="answer")
                reasons = gr.HTML(elem_id="reasons")
        button.click(
            read,
            [clip, audio, text],
            [answer, reasons],
            show_progress_on=answer,
            api_visibility="private",
            concurrency_id="model",
            concurrency_limit=1,
        )
        for given in (clip, audio):
            given.change(keep, [clip, audio], None, api_visibility="private", show_progress="hidden", queue=False)
        page.unload(leave)
        page.load(None, js=_SPEAK)
    page.queue(max_size=_QUEUE)
    return page


def serve(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    max_size: float = 50.0,
    max_seconds: float = 60.0,
    transcribe: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Serves the page until SIGINT (Ctrl-C) or SIGTERM. What visitors upload lies in a temporary folder of its own,
    which is removed at the end; an upload goes before that when its page is closed, it is replaced, or an hour is over.

    Args:
        model: folder or Hub name of a trained model.
        host, port: where; 127.0.0.1 is reached from this machine alone.
        share: make a public address through gradio's own servers.
        max_size: most megabytes of an upload.
        max_seconds: length of the longest clip that is read.
        transcribe: folder or Hub name of a speech recogniser (Whisper, or a CTC model); without it there is no
            button for it.
        device: of both; by default a GPU where there is one.
        trust_remote_code: run code that comes with the model.

    Raises:
        ImportError: gradio is not installed.
        OSError: the model or the recogniser is not found, or the port is taken.
    """
    if not (0 < max_size < math.inf and 0 < max_seconds < math.inf):
        raise ValueError(f"max_size and max_seconds must be positive, got {max_size:g} and {max_seconds:g}")
    with _own_folder():
        gr = _import_gradio()
        from transformers import pipeline

        pipe = pipeline(TASK, model=model, device=device, trust_remote_code=trust_remote_code)
        recognise = _recogniser(transcribe, pipe.device) if transcribe else None
        page = build_page(pipe, max_seconds=max_seconds, recognise=recognise, name=Path(model).name)
        with _end_signals() as ended:  # installed before the page is served
            _, address, public = page.launch(
                server_name=host,
                server_port=port,
                share=share,
                max_file_size=round(max_size * 2**20),
                state_session_capacity=2 * _QUEUE,
                prevent_thread_lock=True,
                quiet=True,
                ssr_mode=False,
                footer_links=[],
                theme=_theme(gr),
                css_paths=[_STYLE],
            )
            print(f"{public or address} reads clips with {model} (Ctrl-C ends it)", flush=True)
            ended.wait()
            page.close(verbose=False)


@contextmanager
def _end_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, in place of what they do otherwise."""
    ended = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in numbers}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _theme(gr: Any) -> Any:
    """Fonts of the visitor's system, so that none are fetched; a button dark enough for its white text."""
    theme = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["monospace"])
    return theme.set(
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
    )


class _Uploads:
    """Files that visitors have on their pages, removed when the last of them lets go: gradio names an upload after its
    content, so two visitors can hold the same file."""

    def __init__(self) -> None:
        self._held: dict[str, set[Path]] = {}
        self._lock = threading.Lock()

    def keep(self, visitor: str | None, *paths: str | None) -> None:
        """`visitor` holds `paths` now and nothing else."""
        with self._lock:
            before = self._held.pop(visitor or "", set())
            now = {Path(path) for path in paths if path}
            if now:
                self._held[visitor or ""] = now
            for path in before.difference(*self._held.values()):
                path.unlink(missing_ok=True)


@contextmanager
def _told(gr: Any, *paths: str | None) -> Iterator[None]:
    """What a visitor can mend is told on the page; where the server keeps the files at `paths` is not."""
    try:
        yield
    except (ValueError, OSError) as error:
        message = str(error)
        for path in filter(None, paths):
            message = message.replace(path, Path(path).name)
        raise gr.Error(escape(message, quote=False), duration=None, print_exception=False) from error


def _transcript(recognise: Callable[[str], str] | None, path: str | None, max_seconds: float) -> str:
    if path is None or recognise is None:
        raise ValueError("There is nothing to hear yet: give a clip or audio.")
    check_duration(path, max_seconds)
    return recognise(path)


def _recogniser(source: str, device: Any) -> Callable[[str], str]:
    from ..extract.speech import SpeechRecogniser

    hear = SpeechRecogniser(source, device=device)
    return lambda path: hear(load_audio(path, sampling_rate=hear.sampling_rate)).text


@contextmanager
def _own_folder() -> Iterator[None]:
    """A new folder for the temporary files of gradio and of Python, removed at the end. gradio looks for it as it is
    imported."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="clcr-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
            del os.environ["GRADIO_TEMP_DIR"]


def _import_gradio() -> Any:
    """gradio, without its telemetry."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    return optional_package("gradio", "the demo needs gradio", "demo")
