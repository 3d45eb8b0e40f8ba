"""The data sets by name. Nothing is imported here, so that the command line can list them at once."""

# What `--dataset` calls a data set, and the module of `clcr_hf.data` that ends in its `Source`: called `SOURCE`, or by
# the name after the colon.
HOMES = {
    "talking_faces": "talking_faces.source",
    "manifest": "table.manifest",
    "shards": "shard_rows",
    "hub": "named",
    "mmsa": "benchmarks.mmsa",
    "utterances": "benchmarks.utterances",
    "csd": "benchmarks.csd",
    "cremad": "benchmarks.cremad",
    "kinetics_sounds": "benchmarks.kinetics_sounds",
    "ave": "benchmarks.ave",
    "ave_h5": "benchmarks.ave:H5_SOURCE",
    "ucf101": "benchmarks.ucf101",
    "meld": "benchmarks.meld",
    "sims2": "benchmarks.sims2",
}
SOURCE_NAMES = tuple(HOMES)
ROWS_PER_SHARD = 256
