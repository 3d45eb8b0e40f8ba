"""Train CLCR on clips with speech, or on features, and measure it.

With no arguments it generates a small corpus of talking-face clips, trains on it and writes the model, its processor
and its card to runs/talking_faces:

    accelerate launch examples/run_sentiment.py

Arguments are transformers' own (HfArgumentParser); `--help` lists them. See examples/README.md for other data.
"""

from clcr_hf.training import parse_args, run_sentiment


def main() -> None:
    """Model, data and training arguments from the command line, then: load, train, measure, save."""
    model_args, data_args, training_args = parse_args()
    run_sentiment(model_args, data_args, training_args)


if __name__ == "__main__":
    main()
