r"""Train CLCR on AVE: which of 28 events, or none, each second of a clip shows, or which event the clip holds.

    accelerate launch examples/run_event_localization.py examples/recipes/ave.yaml --dataset_dir AVE_Dataset
    accelerate launch examples/run_event_localization.py examples/recipes/ave_h5.yaml --dataset_dir AVE_Dataset/data

The first reads the videos, the second the ready features. A label for each second, from the videos:

    accelerate launch examples/run_event_localization.py examples/recipes/ave.yaml --dataset_dir AVE_Dataset \
        --dataset_options task=segment --output_dir runs/ave_segments

What follows the recipe goes before it; `--help` lists the arguments. See examples/README.md.
"""

from clcr_hf.cli.learn import run_script

if __name__ == "__main__":
    run_script(dataset="ave", audio_preset="ave", output_dir="runs/ave")
