r"""Train CLCR for actions: Kinetics-Sounds (frames and sound) or UCF101 (frames and optical flow).

    accelerate launch examples/run_action_recognition.py examples/recipes/kinetics_sounds.yaml --dataset_dir KS
    accelerate launch examples/run_action_recognition.py examples/recipes/ucf101.yaml --dataset_dir UCF101

UCF101 has three splits; figures are the mean of all:

    for fold in 1 2 3; do
        accelerate launch examples/run_action_recognition.py examples/recipes/ucf101.yaml --dataset_dir UCF101 \
            --dataset_options fold=$fold --output_dir runs/ucf101_$fold
    done

What follows the recipe goes before it; `--help` lists the arguments. See examples/README.md.
"""

from clcr_hf.cli.learn import run_script

if __name__ == "__main__":
    run_script(dataset="kinetics_sounds", audio_preset="kinetics_sounds", output_dir="runs/kinetics_sounds")
