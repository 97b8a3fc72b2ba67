# dataset: reads trajectories, checks every frame, splits them
#   in   simulate/<system>/…, or the user's own topology and trajectories
#   out  dataset/<system>/topology.pdb, <md>.dcd, <md>.json  frames that passed, heavy atoms
#        dataset/split.parquet, split.tsv, split.json         which frame is for what
#        dataset/checks.json                                 which frame or system failed, and why; not declared, so
#                                                            that it is there to read when the job has failed


rule dataset:
    """Checked and split MD of every system."""
    input:
        unpack(RUN.dataset_inputs),
    output:
        topologies=RUN.dataset_topologies(),
        trajectories=RUN.dataset_trajectories(),
        records=RUN.dataset_records(),
        split="<results>/dataset/split.parquet",
        split_table="<results>/dataset/split.tsv",
        split_record="<results>/dataset/split.json",
    log:
        "<results>/logs/dataset.log",
    benchmark:
        "<results>/benchmarks/dataset.tsv"
    conda:
        "../../envs/ancdiff.yaml"
    threads: 1
    params:
        settings=RUN.settings("dataset"),
        code=RUN.code("dataset"),
        results=RUN.results,
    message:
        "dataset: check and split"
    shell:
        "python -m ancdiff dataset --settings - --results {params.results} --threads {threads}"
        " <<< {params.settings:q} > {log} 2>&1"
