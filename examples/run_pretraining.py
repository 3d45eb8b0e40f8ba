r"""The alignment stage alone: what modalities share, learned from rows with or without labels.

    accelerate launch examples/run_pretraining.py --dataset manifest --data_file unlabelled.csv \
        --output_dir runs/aligned
    accelerate launch examples/run_sentiment.py --dataset manifest --data_file labelled.csv \
        --model_name_or_path runs/aligned --output_dir runs/clips

The second command, as `clcr train` and the other scripts do, goes on from the first one's model with a new head for the
labels of its data. Labels in the first one's data are not looked at. Both stages on the same rows, in one command:
`--evidence agreement --pretrain_epochs 10` of the other scripts.

Arguments are those of the other scripts; `--help` lists them. See examples/README.md.
"""

from clcr_hf.cli.learn import run_script

if __name__ == "__main__":
    run_script(pretraining=True, evidence="agreement", output_dir="runs/aligned")
