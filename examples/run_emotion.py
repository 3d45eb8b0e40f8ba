r"""Train CLCR for emotions: CREMA-D (one of six a clip) or CMU-MOSEI (any of six a segment).

    accelerate launch examples/run_emotion.py examples/recipes/cremad.yaml --dataset_dir CREMA-D
    accelerate launch examples/run_emotion.py examples/recipes/mosei_emotions.yaml --dataset_dir cmumosei

CREMA-D without an actor in both training and test:

    accelerate launch examples/run_emotion.py examples/recipes/cremad.yaml --dataset_dir CREMA-D \
        --dataset_options split=actors --output_dir runs/cremad_actors

What follows the recipe goes before it; `--help` lists the arguments. See examples/README.md.
"""

from clcr_hf.cli.learn import run_script

if __name__ == "__main__":
    run_script(dataset="cremad", audio_preset="cremad", output_dir="runs/cremad")
