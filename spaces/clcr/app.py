"""The page of `clcr demo` as a Space. Variables of the Space choose: CLCR_MODEL, CLCR_TRANSCRIBE, CLCR_MAX_SECONDS."""

import os

from clcr_hf.demo import serve

if __name__ == "__main__":
    serve(
        os.environ.get("CLCR_MODEL", "org/clcr-mosei"),
        host=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"),
        port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
        max_seconds=float(os.environ.get("CLCR_MAX_SECONDS", "60")),
        transcribe=os.environ.get("CLCR_TRANSCRIBE"),
    )
