"""Train CLCR for sentiment: CMU-MOSI, CMU-MOSEI, your own clips or features, or generated clips.

With no arguments it generates a small corpus of talking-face clips, trains on it and writes the model, its processor
and its card to runs/talking_faces:

    accelerate launch examples/run_sentiment.py

The benchmarks, from the pickles of the MMSA toolkit or the files of CMU-MultimodalSDK:

    accelerate launch examples/run_sentiment.py examples/recipes/mosi.yaml --data_file aligned_50.pkl
    accelerate launch examples/run_sentiment.py examples/recipes/mosei.yaml --data_file aligned_50.pkl
    accelerate launch examples/run_sentiment.py --dataset csd --dataset_dir cmumosi --output_dir runs/mosi_csd

Your own clips, from a table with columns media, text, label and split, or from what `clcr extract` wrote:

    accelerate launch examples/run_sentiment.py --dataset manifest --data_file clips.csv --output_dir runs/clips
    accelerate launch examples/run_sentiment.py --dataset shards --dataset_dir features --output_dir runs/features

Arguments are transformers' own (HfArgumentParser); `--help` lists them. See examples/README.md.
"""

from clcr_hf.cli.learn import run_script

if __name__ == "__main__":
    run_script()
